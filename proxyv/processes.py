"""The processes of one run, as torchrun or a DeepSpeed launcher starts them; a single one without a launcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch

from proxyv.errors import UserError

Value = TypeVar("Value")
_LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what each process is told beside their number


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def rank() -> int:
    """This process's number, from 0."""
    return _number("RANK", 0)


def world_size() -> int:
    """Number of processes."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """This process's number on its machine, from 0. Raises UserError where a launcher's variables are not whole."""
    local = _number("LOCAL_RANK", 0)
    missing = [name for name in _LAUNCHER if name not in os.environ] if world_size() > 1 else []
    if missing or not max(rank(), local) < world_size():
        raise UserError(
            f"WORLD_SIZE: the environment has {world_size()}, but "
            f"{f'no {missing[0]}' if missing else 'RANK or LOCAL_RANK is not below it'}; start by torchrun, or unset it"
        )
    return local


def _number(variable: str, alone: int) -> int:
    """What a launcher has put into a variable; `alone` without one. Raises UserError for anything but a number."""
    value = os.environ.get(variable, str(alone))
    if not value.isdecimal():
        raise UserError(f"{variable}: the environment has {value!r}, no number; unset it, or start by torchrun")
    return int(value)


def connect() -> None:
    """Join the other processes, so that `wait` works before the first Trainer exists.

    Raises UserError where a launcher's variables are not whole.
    """
    if world_size() > 1:
        from accelerate import PartialState

        local_rank()
        PartialState(cpu=not torch.cuda.is_available())


def connected() -> bool:
    """Whether this process has joined others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def wait() -> None:
    """Until all processes are here."""
    if connected():
        torch.distributed.barrier()


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process. device: where this process's tensors live."""
    if not connected():
        return flag
    found = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found)


def gather(value: Value) -> list[Value]:
    """Every process's value (small, and one that pickles), by rank, in all of them."""
    if not connected():
        return [value]
    found: list[Value] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def from_main(work: Callable[[], Value]) -> Value:
    """What `work` returns in the main process, in all of them; what it raises there is raised in all of them."""
    if not connected():
        return work()
    done: list[tuple[Value | None, Exception | None]] = [(None, None)]
    if is_main():
        try:
            done = [(work(), None)]
        except Exception as error:  # whatever it is, the others would wait for ever
            done = [(None, error)]
    torch.distributed.broadcast_object_list(done)
    value, failure = done[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]
