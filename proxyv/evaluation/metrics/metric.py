"""What a metric is: a function from one answer to named scores between 0 and 1, and how a benchmark's scores come of
its samples'."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxyv.results.scores import AnswerRecord

MetricFunction = Callable[[str, Sequence[str], Mapping[str, Any]], dict[str, float]]
Total = Callable[[Sequence[AnswerRecord]], dict[str, float]]
RowCheck = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Metric:
    """A metric and what it gives and takes.

    function: (prediction, references, row) → the sample's scores by name.
    scores: the names of the benchmark's scores.
    needs: what `row` must hold; `image_size` (width, height in pixels) is always there, `options` (letter → text) where
        the benchmark has options.
    problem: what is wrong with a row's values, in words; None where they can be scored.
    total: answers with their samples' scores → the benchmark's scores; None: the mean of each.
    """

    name: str
    function: MetricFunction
    scores: tuple[str, ...]
    needs: tuple[str, ...] = ()
    uses_references: bool = True
    problem: RowCheck = lambda row: None
    total: Total | None = None

    def totals(self, records: Sequence[AnswerRecord]) -> dict[str, float]:
        """The benchmark's scores from its answers, of which there is one at least."""
        if self.total is not None:
            return self.total(records)
        return {name: statistics.fmean(record["scores"][name] for record in records) for name in self.scores}


METRICS: dict[str, Metric] = {}


def metric(
    *scores: str,
    name: str | None = None,
    needs: tuple[str, ...] = (),
    uses_references: bool = True,
    problem: RowCheck = lambda row: None,
    total: Total | None = None,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a function as the metric `name` (its own name unless given) with these score names."""

    def register(function: MetricFunction) -> MetricFunction:
        key = name or function.__name__
        METRICS[key] = Metric(key, function, scores or (key,), needs, uses_references, problem, total)
        return function

    return register


def grouped(records: Iterable[AnswerRecord], key: Callable[[AnswerRecord], Any], score: str) -> dict[Any, list[float]]:
    """A score of the samples, by the group that `key` puts each in."""
    groups: dict[Any, list[float]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record["scores"][score])
    return groups
