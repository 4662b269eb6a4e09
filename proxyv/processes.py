"""The processes of one run, as torchrun or a DeepSpeed launcher starts them; a single one without a launcher."""

from __future__ import annotations

import os

import torch


def is_main() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def connect() -> None:
    """Join the other processes, so that `wait` works before the first Trainer exists."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def wait() -> None:
    """Until all processes are here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
