"""Which sample comes when: one sequence for the whole stage, a pure function of the seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from proxyv.errors import UserError


class TrainingOrder(Sampler[int]):
    """Sample indices of a whole stage, `steps` global batches of `batch`, epoch after epoch, each shuffled anew.

    One sequence over all epochs keeps every batch full and makes resuming a matter of skipping; the order does not
    depend on the number of processes. Without lengths a batch may span two epochs; with them see `grouped`.

    Raises UserError where samples are grouped by length and do not fill one batch.
    """

    def __init__(self, size: int, batch: int, steps: int, seed: int, lengths: Sequence[int] | None = None):
        if lengths is not None and size < batch:
            raise UserError(f"group_by_length: {size} samples do not fill one global batch of {batch}; turn it off")
        self.size, self.batch, self.steps, self.seed = size, batch, steps, seed
        self.lengths = None if lengths is None else np.asarray(lengths)

    def __len__(self) -> int:
        return self.steps * self.batch

    def __iter__(self) -> Iterator[int]:
        left, epoch = len(self), 0
        while left:
            order = self.epoch(epoch)[:left].tolist()
            yield from order
            left -= len(order)
            epoch += 1

    def epoch(self, number: int) -> np.ndarray:
        """The indices of one epoch (size,) int64; grouped, without those that fill no batch."""
        rng = np.random.default_rng([self.seed, number])
        return rng.permutation(self.size) if self.lengths is None else grouped(self.lengths, self.batch, rng)


def grouped(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> np.ndarray:
    """One epoch in which a global batch has images in all samples or in none, and neighbours are alike in length.

    Both kinds are shuffled and cut into global batches, each sorted by length (longest first), and the batches of
    both kinds are shuffled together; what is left of both makes at most one mixed batch, the last; the rest waits for
    another epoch. After LLaVA's `group_by_modality_length`; there each device gets a share of equal load of the
    batch, here devices get neighbouring micro-batches, which are alike in length as well.

    lengths: words of each sample, negative without image.
    """
    batches, left = [], []
    for kind in (lengths > 0, lengths <= 0):
        indices = rng.permutation(np.flatnonzero(kind))
        whole = len(indices) // batch * batch
        batches += list(indices[:whole].reshape(-1, batch))
        left.append(indices[whole:])
    batches = [batches[place] for place in rng.permutation(len(batches))]
    rest = np.concatenate(left)
    if len(rest) >= batch:
        batches.append(rng.permutation(rest)[:batch])
    return np.concatenate([members[np.argsort(-np.abs(lengths[members]), kind="stable")] for members in batches])


def steps_of(size: int, batch: int, epochs: float, grouped: bool) -> int:
    """Optimiser steps in so many epochs. Raises UserError where they make none."""
    steps = int(epochs * (size // batch if grouped else size / batch))
    if steps < 1:
        raise UserError(
            f"epochs: {epochs:g} of {size} samples fill no global batch of {batch}; raise it, lower global_batch_size, "
            "or set steps"
        )
    return steps
