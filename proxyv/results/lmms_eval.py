"""What an evaluation through lmms-eval writes: lines as those of our own engine, and one result for each task."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from proxyv.results.origin import EnvironmentRecord, ModelRecord


class LmmsEvalResult(TypedDict):
    """`<task>.json`. Beside it `<task>.jsonl` holds an AnswerRecord (results/scores.py) for each sample."""

    kind: Literal["lmms-eval"]
    task: str  # its name in lmms-eval
    scores: dict[str, float]  # as lmms-eval gives them, each task on a scale of its own
    num_samples: int
    notes: list[str]  # where a score is not what lmms-eval says, and why
    lmms_eval: str  # its version
    task_version: Any  # of the task, as lmms-eval has it
    task_definition: dict[str, Any]  # the task's configuration: prompt, split, generation, metrics
    files: list[str]  # that the samples came from
    available_samples: int
    limit: int | None  # only the first samples
    batch_size: int | None
    seeds: list[int]  # of Python, numpy, torch and the choice of examples
    wall_seconds: float
    model: ModelRecord
    recipe: dict[str, Any]
    environment: EnvironmentRecord
    created: str  # UTC, ISO 8601
