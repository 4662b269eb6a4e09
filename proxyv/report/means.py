"""What several runs say together: a mean and its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MeanOverRuns:
    """Mean and sample standard deviation (0 for one run) over `runs` runs."""

    mean: float
    spread: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanOverRuns:
        """The figure of one value a run."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    def text(self, decimals: int) -> str:
        """For tables: "81.2", or "81.2 ± 0.7" over several runs."""
        mean = f"{self.mean:.{decimals}f}"
        return f"{mean} ± {self.spread:.{decimals}f}" if self.runs > 1 else mean
