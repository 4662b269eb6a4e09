"""What an evaluation writes: one line for each answer, a result for each benchmark, one for the suite."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from proxyv.results.origin import EnvironmentRecord, ModelRecord


class AnswerRecord(TypedDict):
    """One sample's answer: a line of `<benchmark>.jsonl`."""

    index: int  # in file order, from 0
    id: str
    prompt: str  # the text that was sent, chat template included
    prediction: str
    references: list[str]  # accepted answers
    scores: dict[str, float]  # score name → value between 0 and 1
    new_tokens: int  # up to and including the end token
    finished: bool  # false: `max_new_tokens` came before an end token
    row: dict[str, Any]  # the benchmark's kept columns, `options` if any, `image_size` (the first's, [width, height])


class TableFields(TypedDict):
    """What tables need of a benchmark beside its scores."""

    title: str
    main: str  # name of the score that tables show
    scale: float  # tables show main · scale


class BenchmarkIdentity(TableFields):
    """What was measured, and how: written before the first answer."""

    kind: Literal["benchmark"]
    benchmark: str
    benchmark_definition: dict[str, Any]  # the fields of its YAML file
    metrics_version: str
    decoding: str
    model: ModelRecord
    seed: int
    limit: int | None  # only the first samples
    available_samples: int
    planned_samples: int
    recipe: dict[str, Any]
    environment: EnvironmentRecord
    created: str  # UTC, ISO 8601


class Effort(TypedDict):
    """What the answers took, over all resumed runs; the seconds of a run that was killed are lost."""

    batch_size: int | None  # of the last run
    batch_sizes: list[int]  # of all runs
    resumed_after: int  # answers that the last run found
    wall_seconds: float
    processes: int  # of the last run, which shared the answers; files of earlier versions lack it


class GeneratedTokens(TypedDict):
    """Lengths of the answers, in tokens."""

    total: int
    mean: float
    max: int
    cut_short: int  # answers that reached `max_new_tokens`


class ScoreSummary(TypedDict):
    """What the metrics make of the answers."""

    num_samples: int
    scores: dict[str, float]
    totals: list[str]  # scores that are made of several answers together, and are no means
    main_score: float  # the main score · scale
    groups: dict[str, dict[str, float]]  # value of `group_by` → `num_samples` and the scores of these samples
    generated_tokens: GeneratedTokens


class BenchmarkResult(BenchmarkIdentity, Effort, ScoreSummary):
    """`<benchmark>.json`. While `complete` is false the fields of ScoreSummary are absent."""

    complete: bool


class TermValue(TypedDict):
    """One summand of a suite's score."""

    benchmark: str
    score: str
    scale: float
    value: float  # score · scale


class SuitePart(TableFields):
    """One benchmark's scores in a suite's result."""

    main_score: float
    num_samples: int
    scores: dict[str, float]
    benchmark_definition: dict[str, Any]


class SuiteResult(TypedDict):
    """`suite-<suite>.json`. What the parts have in common is that of the first one."""

    kind: Literal["suite"]
    suite: str
    title: str
    complete: bool
    score_name: str
    score: float  # mean of the terms' values
    terms: list[TermValue]
    benchmarks: dict[str, SuitePart]
    wall_seconds: float  # of all parts
    model: ModelRecord
    seed: int
    limit: int | None
    batch_size: int | None
    recipe: dict[str, Any]
    environment: EnvironmentRecord
    metrics_version: str
    created: str
