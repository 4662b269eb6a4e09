"""What can keep a sample from being used as it is; counted along with every item, so that the log is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Outcome(IntEnum):
    """The place of each count in a vector of counts."""

    BAD_IMAGES_SKIPPED = 0
    BAD_IMAGES_SUBSTITUTED = 1
    TOO_LONG_SKIPPED = 2
    UNSUPERVISED_SKIPPED = 3
    BAD_RECORDS_SKIPPED = 4
    IMAGE_MARKS_AS_TEXT = 5  # samples with `<image>` in a question and no image


COUNTS = tuple(outcome.name.lower() for outcome in Outcome)  # the counts' names in logs and reports, in order

# What is wrong with the data rather than unfit for the stage; of samples that are skipped, and of all.
SKIPPED = (
    Outcome.BAD_IMAGES_SKIPPED,
    Outcome.TOO_LONG_SKIPPED,
    Outcome.UNSUPERVISED_SKIPPED,
    Outcome.BAD_RECORDS_SKIPPED,
)
BAD = (Outcome.BAD_IMAGES_SKIPPED, Outcome.BAD_IMAGES_SUBSTITUTED, Outcome.BAD_RECORDS_SKIPPED)


def no_counts() -> np.ndarray:
    """A vector of counts (len(COUNTS),) int64, all zero: `counts[Outcome.TOO_LONG_SKIPPED] += 1`."""
    return np.zeros(len(COUNTS), dtype=np.int64)


@dataclass
class Outcomes:
    """What happened to one sample: counts (len(COUNTS),) int64, and each in words."""

    counts: np.ndarray = field(default_factory=no_counts)
    reasons: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, reason: str) -> None:
        """Count one more."""
        self.counts[outcome] += 1
        self.reasons.append(reason)


def total(counts: Mapping[str, float], outcomes: tuple[Outcome, ...]) -> int:
    """The sum of some of the counts, which are given by name; one that is not there is zero."""
    return sum(int(counts.get(COUNTS[outcome], 0)) for outcome in outcomes)


def describe(counts: np.ndarray) -> str:
    """The counts (len(COUNTS),) that are not zero, in words."""
    named = [f"{name.replace('_', ' ')}: {count}" for name, count in zip(COUNTS, counts.tolist(), strict=True) if count]
    return ", ".join(named) or "nothing skipped"
