"""Times and memory of models that ran side by side in one process: what `proxyv bench` writes.

A part is one of tower, projector, selection, llm, other (proxyv/profiling/bench/timing.py).
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from proxyv.results.origin import EnvironmentRecord

TimeName = Literal["prefill_ms", "decode_ms_per_token", "end_to_end_ms"]
Rounds = dict[str, list[float]]  # name of a figure → its value in every round


class MedianAndIqr(TypedDict):
    """A figure over the rounds, in its own unit."""

    median: float
    iqr: float  # width between the quartiles


class RatioInterval(TypedDict):
    """The median of ratios round by round, and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float


class BenchedModel(TypedDict):
    """One model of a run."""

    recipe: str
    method: dict[str, Any]  # its name and fields
    needs: list[str]  # what the method needs beyond features (NEEDS in proxyv/model/method.py)
    approximate: bool  # whether the method is rebuilt from what little is public
    folded: bool
    weights_mb: float  # MiB of this model alone; models of a run share what is alike


class CellHead(TypedDict):
    """A cell: one model at one setting."""

    label: str  # of the model
    attention: str
    batch_size: int
    crops: int
    failed: str | None  # why there are no figures


class CellTimes(TypedDict):
    """Times over the rounds, in milliseconds."""

    prefill_ms: MedianAndIqr  # tower to the logits of the first token, cache included
    decode_ms_per_token: MedianAndIqr
    end_to_end_ms: MedianAndIqr  # prefill and decoding of all new tokens


class CellFigures(CellTimes):
    """What was measured in a cell, and what follows from it."""

    parts: dict[str, MedianAndIqr]  # `<part>_ms` of a prefill that is split into parts, milliseconds
    # To the baseline's cell at the same setting, by name of the figure; null for the baseline itself.
    ratios: dict[str, RatioInterval] | None
    peak_memory_mb: float | None  # MiB of weights and of what a prefill holds; null for flex attention on a CPU
    prompt_tokens: int  # of the batch, as the prompt has them, whatever a method drops
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    prefill_flops: int  # of the batch, counted (proxyv/profiling/prefill.py)
    prefill_tflops_per_second: float
    share_of_matrix_rate: float | None  # a fraction; null where the rate was not measured
    rounds: Rounds  # every round's times, from which all the above comes
    split_rounds: Rounds  # every split round's parts


class CellResult(CellHead, CellFigures):
    """A cell in the file. Where `failed` is set the figures are absent."""


class RoundSettings(TypedDict):
    """What is timed how often."""

    new_tokens: int  # decoded after the prefill
    warmup: int  # rounds thrown away
    repeats: int  # rounds that count
    splits: int  # rounds, of those, with a split prefill


class RunSettings(RoundSettings):
    """What all cells have in common."""

    text_tokens: int
    dtype: str
    weights: str  # "random", or the folder of the trained model


class BenchFigures(TypedDict):
    """The figures of a run. Models are named by their labels."""

    baseline: str | None
    models: dict[str, BenchedModel]
    matrix_rate: MedianAndIqr | None  # TFLOP/s of plain matrix products; null: not measured
    cells: list[CellResult]  # one for each setting and model


class BenchResult(BenchFigures, EnvironmentRecord):
    """The file of one run."""

    kind: Literal["bench"]
    run: str  # a random id: ratios exist within one run only
    time: str  # UTC, ISO 8601
    settings: RunSettings
    device: dict[str, Any]  # see `describe_device`; `name` is always there


class FlatFigures(CellTimes):
    """One model's figures in `bench.json` of a run folder."""

    vision_ms: MedianAndIqr  # tower and projector, from split passes
    peak_memory_mb: float | None


class ComparedFigures(FlatFigures):
    """The baseline's figures in `bench.json` of a run folder."""

    method: dict[str, Any]


class RecipeBench(ComparedFigures, RunSettings, EnvironmentRecord):
    """One recipe at one setting."""

    recipe: str
    attention: str
    batch_size: int
    crops: int
    folded: bool
    run: str
    time: str
    device: str  # its name


class FlatRatios(TypedDict, total=False):
    """One recipe's times against a baseline's; empty without one."""

    compare: str  # the baseline's label
    compared: ComparedFigures
    prefill_time_ratio: RatioInterval
    decode_time_ratio: RatioInterval
    end_to_end_time_ratio: RatioInterval
    prefill_time_reduction: float  # a fraction: 1 - the median ratio


class FlatBench(RecipeBench, FlatRatios):
    """`bench.json` of a run folder: one recipe at one setting and, with a baseline, the ratios to it."""
