"""What a sweep has done: `sweep.json`. Seeds are keys, so they are texts."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from proxyv.results.origin import EnvironmentRecord


class SweepProfile(TypedDict, total=False):
    """The figures that a sweep keeps of a recipe's profile (see `Profile`)."""

    decoder_flops: int
    total_flops: int
    decoder_flops_reduction: float
    total_flops_reduction: float
    crops: int
    vision_tokens: int
    text_tokens: int


class StageSummary(TypedDict):
    """One finished stage."""

    steps: int
    loss: float  # at its end
    seconds: float


class TrainingSummary(TypedDict):
    """The finished stages of one seed."""

    loss: float  # at the end of the last stage
    steps: int  # of all stages
    stages: dict[str, StageSummary]


class SharedTraining(TrainingSummary):
    """The shared stages of one seed."""

    environment: EnvironmentRecord


class SweepBenchmark(TypedDict):
    """One seed's score on one benchmark."""

    title: str
    main: str
    main_score: float
    num_samples: int
    protocol: str  # how it was measured, in words


class SweepSuite(TypedDict):
    """One seed's score on the suite."""

    suite: str
    title: str
    score_name: str
    score: float


class SweepRun(TypedDict):
    """One seed of one recipe; null: not trained, or not evaluated to the end."""

    training: TrainingSummary | None
    suite: SweepSuite | None
    benchmarks: dict[str, SweepBenchmark]


class SeedSummary(TypedDict):
    """A figure over seeds."""

    mean: float
    spread: float | None  # sample standard deviation; null for one seed
    seeds: int


class SweepRecipe(TypedDict):
    """One recipe with all its seeds."""

    method: dict[str, Any]  # its name and all fields
    profile: SweepProfile
    seeds: list[int]
    runs: dict[str, SweepRun]  # by seed
    summary: dict[str, SeedSummary]  # by benchmark, and `suite_score` and `training_loss`
    failed: dict[str, str]  # what failed in the last call ("profile", "seed 0") → message
    environments: list[EnvironmentRecord]  # more than one where versions or machine changed in between


class SweepResult(TypedDict):
    """`sweep.json`."""

    kind: Literal["sweep"]
    recipes: dict[str, SweepRecipe]
    shared: dict[str, SharedTraining]  # by seed
