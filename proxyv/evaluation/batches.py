"""Which samples are answered together, and how many: by length, longest first.

The batches follow from the samples' lengths and the batch size alone. Whichever process answers one, and after however
many interruptions, it holds the same samples.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from proxyv.domains import Count, Declared, Seed
from proxyv.errors import UserError
from proxyv.model.processing import ProxyVProcessor
from proxyv.schema import check_dataclass

Reply = TypeVar("Reply")
Ask = Callable[[Sequence[int]], list[Reply]]  # indices of samples → what they are answered
BatchSize = int | Literal["auto"]
AUTO: Literal["auto"] = "auto"
# Where `auto` begins. A CPU has nothing to gain from more; a device tells when its memory is full.
MOST_ON_CPU, MOST_ON_DEVICE = 8, 64
PIXELS_PER_TOKEN, CHARACTERS_PER_TOKEN = 28 * 28, 4  # of processors that do not tell: common values


@dataclass
class _Numbers(Declared):
    batch_size: Count
    limit: Count | None
    seed: Seed


def check_numbers(batch_size: BatchSize, limit: int | None = None, seed: int = 0) -> None:
    """Raise UserError for a number outside its domain."""
    check_dataclass(_Numbers(1 if batch_size == AUTO else batch_size, limit, seed))


def prompt_length(processor: Any, prompt: str, sizes: Sequence[tuple[int, int]]) -> int:
    """Length of a prompt with images of these (width, height) in pixels, none of which is opened: in tokens, text and
    vision, with our own processor; with others a rough guess, which orders samples well enough."""
    if isinstance(processor, ProxyVProcessor):
        return processor.count_rows(prompt, sizes)
    pixels = sum(width * height for width, height in sizes)
    return len(prompt) // CHARACTERS_PER_TOKEN + pixels // PIXELS_PER_TOKEN


def plan_batches(lengths: Mapping[int, int], batch_size: int) -> list[list[int]]:
    """The samples in batches, longest first, of equal ones the first first.

    lengths: index of a sample → length of its prompt.
    """
    order = sorted(lengths, key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def first_guess(model: Any, samples: int, processes: int) -> int:
    """The batch size that `auto` tries first: a power of two that leaves no process idle."""
    device = torch.device(getattr(model, "device", None) or "cpu")
    most = MOST_ON_CPU if device.type == "cpu" else MOST_ON_DEVICE
    share = max(1, math.ceil(samples / processes))
    return 1 << (min(most, share).bit_length() - 1)


def find_batch_size(ask: Ask[Reply], lengths: Mapping[int, int], guess: int) -> tuple[int, list[Reply]]:
    """The first of `guess`, half of it, … whose first batch fits into the device's memory, and that batch's answers.

    The first batch has the longest prompts, so that the others fit as well, but for answers that are longer.
    Raises UserError where not even the longest sample fits.
    """
    if not lengths:
        return guess, []
    size = guess
    while (found := _if_it_fits(ask, plan_batches(lengths, size)[0])) is None:
        if size == 1:
            raise _too_large(1)
        size //= 2
    return size, found


def answer_in_parts(ask: Ask[Reply], batch: Sequence[int]) -> tuple[list[Reply], set[int]]:
    """The answers to a batch, which is halved as often as it takes to fit, and the sizes of its parts where it was.

    Raises UserError where not even one sample fits.
    """
    found = _if_it_fits(ask, batch)
    if found is not None:
        return found, set()
    if len(batch) == 1:
        raise _too_large(1)
    halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
    (first, sizes), (second, more) = (answer_in_parts(ask, half) for half in halves)
    return first + second, {*map(len, halves), *sizes, *more}


def answer_whole(ask: Ask[Reply], batch: Sequence[int]) -> list[Reply]:
    """The answers to a batch. Raises UserError where it does not fit."""
    found = _if_it_fits(ask, batch)
    if found is None:
        raise _too_large(len(batch))
    return found


def _if_it_fits(ask: Ask[Reply], batch: Sequence[int]) -> list[Reply] | None:
    """The answers, or None where the device's memory is too small."""
    try:
        return ask(batch)
    except torch.OutOfMemoryError:
        pass  # the error holds on to tensors, so memory is freed behind it
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    return None


def _too_large(size: int) -> UserError:
    if size == 1:
        return UserError("device: one sample alone does not fit into its memory; take a larger one, or --load_in 4bit")
    return UserError(f"batch_size: {size} samples do not fit into the device's memory; take fewer, or auto")
