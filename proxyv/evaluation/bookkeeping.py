"""What the main process of an evaluation does alone: it finds earlier answers, says what is left, writes scores.

The result file is first written when a run starts, with `complete: false` and the identity of what is measured, so that
a resumed run can check whether the answers it finds are its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypedDict, cast

from tqdm import tqdm

from proxyv.environment import describe_model, environment
from proxyv.errors import UserError
from proxyv.evaluation.answer_files import AnswerFiles, Answers, add_answers
from proxyv.evaluation.answerer import Answerer
from proxyv.evaluation.batches import AUTO, BatchSize, find_batch_size, first_guess, plan_batches
from proxyv.evaluation.metrics import METRICS_VERSION
from proxyv.evaluation.scoring import summarize, table_fields
from proxyv.files import read_json, write_json
from proxyv.model.registry import settle_fields
from proxyv.results.check import checked
from proxyv.results.origin import ModelRecord
from proxyv.results.scores import AnswerRecord, BenchmarkIdentity, BenchmarkResult, Effort
from proxyv.schema import describe_change

_NO_EFFORT: Effort = {"batch_size": None, "batch_sizes": [], "resumed_after": 0, "wall_seconds": 0.0, "processes": 1}
_OF_ALL_VERSIONS = ("batch_size", "batch_sizes", "resumed_after", "wall_seconds")
# What a resumed run must have in common with the answers it finds, beside their recipe.
_SAME = ("benchmark_definition", "metrics_version", "decoding", "model", "seed")


class Work(TypedDict):
    """What all processes of an evaluation are told when it begins."""

    batches: list[list[int]]  # to be answered, by the samples' indices
    found: int  # answers that are there already
    model: ModelRecord  # the main process's


@dataclass
class Bookkeeping:
    """One evaluation under way, in its main process.

    limit: only the first samples.
    recipe: recorded as it is.
    progress: whether to show a bar while lengths are measured.
    """

    files: AnswerFiles
    answerer: Answerer
    limit: int | None
    recipe: Mapping[str, Any] | None
    progress: bool

    def __post_init__(self) -> None:
        self.start = time.perf_counter()
        self.identity = self._identity()
        self.settled: Answers = {}  # of earlier runs, in other batches
        self.effort: Effort = {**_NO_EFFORT}
        self.left = 0  # answers that this run makes

    def begin(self, batch_size: BatchSize, resume: bool, processes: int) -> Work:
        """Find what is answered and write down what is measured; `auto` answers a first batch meanwhile.

        Raises UserError where what is found by `resume` is not of this run.
        """
        kept = self._find(batch_size) if resume else {}
        lengths = self._lengths()
        size, first = self._settle_size(batch_size, lengths, processes)
        batches = plan_batches(lengths, size)
        kept = {index: kept[index] for batch in batches if all(i in kept for i in batch) for index in batch}
        self.left = len(lengths) - len(kept)
        if self.left:
            sizes, found = sorted({*self.effort["batch_sizes"], size}), len(self.settled) + len(kept)
            now = {"batch_size": size, "batch_sizes": sizes, "resumed_after": found, "processes": processes}
            self.effort = cast(Effort, {**self.effort, **now})
        # A new identity must never lie beside old answers, nor an old one beside new answers.
        self.files.write_settled(self.settled)
        self.files.begin_parts(kept, processes)
        write_json(self.files.result, {**self.identity, **self.effort, "complete": False})
        with self.files.adding(0) as file:
            add_answers(file, first)
        answered = {*self.settled, *kept, *(record["index"] for record in first)}
        left = [batch for batch in batches if batch[0] not in answered]
        return {"batches": left, "found": len(answered), "model": self.identity["model"]}

    def _lengths(self) -> dict[int, int]:
        """Of the samples that earlier runs have not settled; for each the header of its image is read."""
        left = [index for index in range(self.identity["planned_samples"]) if index not in self.settled]
        bar = tqdm(left, desc=f"{self.files.name}: lengths", disable=not self.progress, leave=False)
        return {index: self.answerer.length(index) for index in bar}

    def _settle_size(
        self, batch_size: BatchSize, lengths: Mapping[int, int], processes: int
    ) -> tuple[int, list[AnswerRecord]]:
        """The batch size as a number, and the answers to the first batch where `auto` had to try it; a resumed run
        keeps the size of the earlier one."""
        if batch_size != AUTO:
            return batch_size, []
        if self.effort["batch_size"] is not None:
            return self.effort["batch_size"], []
        guess = first_guess(self.answerer.model, len(lengths), processes)
        return find_batch_size(self.answerer.ask, lengths, guess)

    def finish(self, halved: Iterable[int]) -> BenchmarkResult:
        """Put all processes' answers together, in sample order, and write the scores.

        halved: batch sizes in which a process answered what did not fit.
        """
        answers = self.files.collect(self.settled, self.identity["planned_samples"])
        self.files.write_settled(answers)
        if self.left:
            seconds = self.effort["wall_seconds"] + time.perf_counter() - self.start
            sizes = sorted({*self.effort["batch_sizes"], *halved})
            self.effort |= {"wall_seconds": round(seconds, 3), "batch_sizes": sizes}
        summary = summarize([answers[index] for index in sorted(answers)], self.answerer.samples.benchmark)
        result: BenchmarkResult = {**self.identity, **self.effort, **summary, "complete": True}
        write_json(self.files.result, result)
        self.files.remove_parts()
        return result

    def _identity(self) -> BenchmarkIdentity:
        """What the result file says about how it was measured."""
        samples = self.answerer.samples
        benchmark = samples.benchmark
        identity: BenchmarkIdentity = {
            "kind": "benchmark",
            "benchmark": benchmark.name,
            **table_fields(benchmark),
            "benchmark_definition": benchmark.definition(),
            "metrics_version": METRICS_VERSION,
            "decoding": "greedy, 1 beam",
            "model": describe_model(self.answerer.model),
            "seed": self.answerer.seed,
            "limit": self.limit,
            "available_samples": len(samples),
            "planned_samples": min(len(samples), self.limit or len(samples)),
            "recipe": dict(self.recipe or {}),
            "environment": environment(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return cast(BenchmarkIdentity, json.loads(json.dumps(identity, default=str)))

    def _find(self, batch_size: BatchSize) -> Answers:
        """Take over the answers of an earlier run and what they took; returns those that fill batches of this one, or
        parts of them.

        Raises UserError where they are not of this run.
        """
        settled, kept = self.files.read_settled(), self.files.read_parts()
        if not settled and not kept:
            return {}
        earlier = self._earlier()
        for index, record in {**settled, **kept}.items():
            if not 0 <= index < self.identity["planned_samples"]:
                raise self._stale(f"it answers sample {index + 1} and the limit is {self.identity['planned_samples']}")
            now = self.answerer.facts(index)
            if difference := describe_change({key: record.get(key) for key in now}, now, f"sample {index + 1}"):
                raise self._stale(difference)
        self.settled = settled
        self.effort = cast(Effort, {key: earlier.get(key, none) for key, none in _NO_EFFORT.items()})
        same_size = batch_size in (AUTO, self.effort["batch_size"])
        if same_size and earlier.get("planned_samples") == self.identity["planned_samples"]:
            return kept
        self.settled = {**kept, **settled}
        return {}

    def _earlier(self) -> dict[str, Any]:
        """The earlier run's result file. Raises UserError where it measured something else."""
        path = self.files.result
        now: Mapping[str, object] = self.identity
        earlier = read_json(path) if path.exists() else {}
        checked(earlier, BenchmarkResult, path, _OF_ALL_VERSIONS if earlier else [])
        for field in _SAME:
            if difference := describe_change(earlier.get(field), now[field], field):
                raise self._stale(difference)
        if difference := describe_change(_settled(earlier.get("recipe")), _settled(self.identity["recipe"]), "recipe"):
            raise self._stale(difference)
        return earlier

    def _stale(self, reason: str) -> UserError:
        remedy = "evaluate without resume or into another folder"
        return UserError(f"{self.files.answers}: cannot resume: {reason}; {remedy}")


def _settled(recipe: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A recorded recipe with its method's defaults written out: results of earlier versions may leave them out."""
    return {**recipe, "method": settle_fields(recipe["method"])} if recipe and "method" in recipe else recipe
