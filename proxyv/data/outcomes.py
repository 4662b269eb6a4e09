"""What can keep a sample from being used as it is; counted along with every item, so that the log is exact."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Outcome(IntEnum):
    """The place of each count in a vector of counts."""

    BAD_IMAGES_SKIPPED = 0
    BAD_IMAGES_SUBSTITUTED = 1
    TOO_LONG_SKIPPED = 2
    UNSUPERVISED_SKIPPED = 3


COUNTS = tuple(outcome.name.lower() for outcome in Outcome)  # the counts' names in logs and reports, in order


def no_counts() -> np.ndarray:
    """A vector of counts (len(COUNTS),) int64, all zero: `counts[Outcome.TOO_LONG_SKIPPED] += 1`."""
    return np.zeros(len(COUNTS), dtype=np.int64)


def describe(counts: np.ndarray) -> str:
    """The counts (len(COUNTS),) that are not zero, in words."""
    named = [f"{name.replace('_', ' ')}: {count}" for name, count in zip(COUNTS, counts.tolist(), strict=True) if count]
    return ", ".join(named) or "nothing skipped"
