"""What `proxyv compare` says: runs on the same samples, each against the first one."""

from __future__ import annotations

from typing import TypedDict


class ComparedRun(TypedDict):
    """One of the runs. `name` is how others refer to it: the folder's, the whole path where two are called alike."""

    name: str
    path: str
    recipe: str | None
    model: str | None  # path of the model
    benchmarks_left_out: list[str]  # that some other run does not have


class Interval(TypedDict):
    """A 95 % percentile-bootstrap interval."""

    low: float
    high: float


class McNemar(TypedDict):
    """McNemar's exact test: of the samples that one run alone has right, how uneven is their split."""

    first_only: int
    other_only: int
    p: float  # two-sided


class SampleScore(TypedDict):
    """One run's answer to a sample."""

    prediction: str
    score: float


class Flip(TypedDict):
    """A sample that two runs score differently."""

    index: int
    id: str
    prompt: str  # that the first run was sent
    references: list[str]
    first: SampleScore
    other: SampleScore


class Pair(TypedDict):
    """One run against the first, on one benchmark. `difference` is other − first, as tables show the main score."""

    other: str
    difference: float
    interval: Interval | None  # None where the main score is no mean of the samples' scores
    mcnemar: McNemar | None  # None where a sample's score is not 0 or 1
    higher: int  # samples that the other run scores higher than the first
    lower: int
    flips: list[Flip]  # the largest changes first


class ComparedBenchmark(TypedDict):
    """All runs on one benchmark."""

    title: str
    main: str
    score: str  # the score of single samples by which flips are found
    averaged: bool  # whether the main score is the mean of that score
    binary: bool  # whether every sample's score is 0 or 1
    num_samples: int
    protocol: str
    main_scores: dict[str, float]  # by run, as tables show them
    pairs: list[Pair]


class Comparison(TypedDict):
    """The first run is what all others are compared with."""

    runs: list[ComparedRun]
    benchmarks: dict[str, ComparedBenchmark]
