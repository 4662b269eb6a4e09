"""What a timing run cannot do, found before any model is built."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from proxyv.errors import UserError
from proxyv.model.attention import masked_back_end, require_back_end
from proxyv.model.dtypes import find_dtype
from proxyv.profiling.bench.models import FOLDING

LEAST = {"warmup": 0, "repeats": 2, "splits": 2}  # two rounds make a spread; all other counts: 1


def refused_back_ends(attentions: Sequence[str], device: str, dtype: str) -> dict[str, str]:
    """Back-ends that cannot run here → why. Raises UserError for unknown ones, and where all are refused."""
    refused = {}
    for attention in attentions:
        try:
            require_back_end(attention)
        except UserError as error:
            masked_back_end(attention)  # raises for an unknown one
            refused[attention] = str(error)
            continue
        if attention.startswith("flash_attention"):
            if torch.device(device).type != "cuda":
                refused[attention] = f"attention: '{attention}' needs a GPU; use sdpa"
            elif dtype == "float32":
                refused[attention] = f"attention: '{attention}' takes no float32; add --dtype bfloat16"
    if all(attention in refused for attention in attentions):
        raise UserError(refused[attentions[0]])
    return refused


def check_counts(**counts: int) -> None:
    """Raise UserError for the first count that is too small, by its name."""
    for name, count in counts.items():
        if count < LEAST.get(name, 1):
            raise UserError(f"{name}: {count} is too few; use {LEAST.get(name, 1)} or more")


def check_run(device: str, dtype: str, fold: str) -> None:
    """Raise UserError for an unknown value of one of the three, and for a device that is not there."""
    if fold not in FOLDING:
        raise UserError(f"fold: '{fold}' is unknown; use one of {', '.join(FOLDING)}")
    find_dtype(dtype)
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device: '{device}' is unknown; use cpu or cuda") from error
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device: '{device}' cannot be timed here; use cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: '{device}' is absent, torch sees no CUDA device; use cpu")
    if kind == "cpu" and dtype != "float32":
        warnings.warn(f"{dtype} is many times slower than float32 on most CPUs", stacklevel=3)
