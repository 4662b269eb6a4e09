"""What tables are made of: one run's figures by column, and how they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxyv.results.scores import BenchmarkResult, SuitePart

FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED = "decoder GFLOPs", "FLOPs reduction %", "published FLOPs reduction %"
TOTAL_SAVED, PREFILL_SAVED, LOSS = "total FLOPs reduction %", "prefill time reduction %", "final training loss"
COSTS = (FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED, TOTAL_SAVED, PREFILL_SAVED, LOSS)


@dataclass(frozen=True)
class BenchmarkFigures:
    """One benchmark's scores in one run. `scores` may be empty: a sweep keeps the main score alone."""

    main_score: float  # as tables show it
    scores: Mapping[str, float]  # between 0 and 1
    protocol: str
    whole: bool  # whether all samples of the split were answered


@dataclass
class RunFigures:
    """One run's figures by column. `protocols`: how a score's column was measured, in words."""

    folder: Path
    recipe: str
    scores: dict[str, float] = field(default_factory=dict)
    suites: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)  # of benchmarks and of suites
    benchmarks: dict[str, BenchmarkFigures] = field(default_factory=dict)  # by the benchmark's name
    unfinished: list[str] = field(default_factory=list)
    failed: str | None = None  # why a sweep has no figures of it

    @property
    def figures(self) -> dict[str, float]:
        """All figures; benchmarks first, then suites, then costs."""
        return self.scores | self.suites | self.costs


def protocol(part: BenchmarkResult | SuitePart, metrics_version: str | None) -> str:
    """Samples, split, prompt and versions of one benchmark's result."""
    definition = part.get("benchmark_definition") or {}
    template = definition.get("prompt")
    prompt = {key: value for key, value in template.items() if value} if isinstance(template, Mapping) else {}
    words = ", ".join(f"{key} {value!r}" for key, value in prompt.items()) or "the bare question"
    return (
        f"{part['num_samples']} samples of {definition.get('split', '?')}, prompt: {words}, "
        f"benchmark version {definition.get('version', '?')}, metrics version {metrics_version or '?'}"
    )
