"""Two models on the same samples: how sure a difference is.

Sources: the percentile bootstrap over samples (Efron & Tibshirani 1993, chapter 13), and McNemar's test (1947) in its
exact form, the two-sided binomial test on the samples that one model alone has right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
_DRAWS = 2**22  # counts drawn at once


def bootstrap_interval(differences: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, one a sample, over samples drawn with replacement.

    The draws are seeded: the same differences give the same interval, whatever their order.
    """
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    total = int(counts.sum())
    draw, step = np.random.default_rng(0), max(1, _DRAWS // len(values))
    # How often each value is drawn, instead of every single draw: the same distribution, and few values.
    means = [
        draw.multinomial(total, counts / total, size=min(step, resamples - done)) @ values / total
        for done in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def mcnemar_p(first_only: int, other_only: int) -> float:
    """The two-sided p-value of McNemar's exact test; 1 where the two models never differ.

    Args:
        first_only: samples that the first model alone has right.
        other_only: samples that the other model alone has right.
    """
    discordant, fewer = first_only + other_only, min(first_only, other_only)
    ways, tail = 1, 0  # C(n, 0), and the sum up to `fewer`
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (discordant - k) // (k + 1)
    p: float = 2 * tail / 2**discordant
    return min(1.0, p)


def is_binary(scores: Sequence[float]) -> bool:
    """Whether all scores are 0 or 1."""
    return all(score in (0, 1) for score in scores)


def is_mean(scores: Sequence[float], value: float) -> bool:
    """Whether a score is the mean of the samples' scores."""
    return math.isclose(math.fsum(scores) / len(scores), value, rel_tol=1e-6, abs_tol=1e-6)
