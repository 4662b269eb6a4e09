"""From the times of rounds to figures: medians with their spread, and ratios with their interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence


def median_and_iqr(values: Sequence[float]) -> dict[str, float]:
    """The median and the width between the quartiles, of two values or more."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def paired_ratio(values: Sequence[float], baseline: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """Median of the round-by-round ratios, with the 95 % bootstrap interval of that median."""
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    draw = random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(resamples)]
    cuts = statistics.quantiles(medians, n=40, method="inclusive")
    return {"median": statistics.median(ratios), "low": cuts[0], "high": cuts[-1]}
