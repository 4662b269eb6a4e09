"""Evaluate a model on a benchmark or a suite: generate, score, record; resume and score again.

Every answer is on disk before the next batch starts. The result file is first written when a run starts, with
`complete: false` and the identity of what is measured, so that a resumed run can check whether the answers it
finds are its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm
from transformers import set_seed

from proxyv.environment import describe_model, environment
from proxyv.errors import UserError, naming
from proxyv.evaluation.answers import Answer, chat_prompt, eval_mode, generate_answers
from proxyv.evaluation.benchmarks import Benchmark, Suite, load_benchmark, load_suite
from proxyv.evaluation.metrics import METRICS_VERSION
from proxyv.evaluation.samples import BenchmarkSample, BenchmarkSamples
from proxyv.evaluation.scoring import read_answers, summarize, summarize_suite, table_fields, with_scores
from proxyv.files import read_json, to_line, write_json, write_records, writing
from proxyv.locks import LOCK, only_process
from proxyv.model.registry import settle_fields
from proxyv.results.check import checked
from proxyv.results.scores import AnswerRecord, BenchmarkIdentity, BenchmarkResult, Effort, SuiteResult
from proxyv.schema import describe_change


def evaluate(
    model: Any,
    processor: Any,
    benchmark: Benchmark | str | Path,
    *,
    data_root: str | Path,
    output_dir: str | Path,
    batch_size: int = 1,
    limit: int | None = None,
    resume: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    benchmarks_dir: str | Path | None = None,
    progress: bool = True,
) -> BenchmarkResult:
    """Score a model on a benchmark; returns what is written to `<output_dir>/<benchmark>.json`.

    Args:
        model, processor: any pair with Hugging Face's interface (`generate`; `apply_chat_template`, call,
            `batch_decode`).
        benchmark: a benchmark, its name, or the path of its YAML file.
        data_root: the folder that the benchmark's `data` is relative to.
        batch_size: samples generated at once; recorded, since rounding may differ between sizes.
        limit: only the first samples.
        resume: continue after the answers found in `output_dir`; without it they are overwritten.
        seed: set before the first batch and recorded.
        recipe: recorded as it is.
        benchmarks_dir: where benchmarks are looked up by name.

    Raises UserError for wrong input, for answers found by `resume` that are not of this run, and where another process
    is at work on the same answers.
    """
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(benchmark, benchmarks_dir)
    _check_numbers(batch_size, limit, seed)
    samples = BenchmarkSamples(benchmark, data_root)
    run = _Evaluation(benchmark, samples, Path(output_dir), processor, batch_size, limit)
    identity = run.identity(model, seed, recipe)
    with only_process(answers_lock(output_dir, benchmark.name)):
        records, effort = run.found(identity) if resume else ([], _NO_EFFORT)
        if len(records) < run.total:
            sizes = sorted({*effort["batch_sizes"], batch_size})
            effort = {**effort, "batch_size": batch_size, "batch_sizes": sizes, "resumed_after": len(records)}
        write_records(run.records_path, records)  # before the new identity, which must never lie beside old answers
        write_json(run.result_path, {**identity, **effort, "complete": False})
        set_seed(seed)
        start = time.perf_counter()
        with eval_mode(model):
            run.answer_rest(model, len(records), progress)
        if len(records) < run.total:
            effort = {**effort, "wall_seconds": round(effort["wall_seconds"] + time.perf_counter() - start, 3)}
        summary = summarize(run.read_answers(), benchmark)
        result: BenchmarkResult = {**identity, **effort, **summary, "complete": True}
        write_json(run.result_path, result)
        return result


def evaluate_suite(
    model: Any,
    processor: Any,
    suite: Suite | str | Path,
    *,
    data_root: str | Path,
    output_dir: str | Path,
    batch_size: int = 1,
    limit: int | None = None,
    resume: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    benchmarks_dir: str | Path | None = None,
    progress: bool = True,
) -> SuiteResult:
    """Evaluate on every benchmark of a suite; returns what is written to `<output_dir>/suite-<name>.json`.

    Arguments and errors (UserError) are those of `evaluate`. All data files are opened before the first answer is made.
    """
    suite, benchmarks = check_suite(suite, data_root, batch_size, limit, seed, benchmarks_dir)
    summary_path = Path(output_dir) / f"suite-{suite.name}.json"
    with only_process(answers_lock(output_dir, summary_path.stem)):
        summary_path.unlink(missing_ok=True)  # it would no longer belong to the answers beside it
        results = {
            benchmark.name: evaluate(
                model,
                processor,
                benchmark,
                data_root=data_root,
                output_dir=output_dir,
                batch_size=batch_size,
                limit=limit,
                resume=resume,
                seed=seed,
                recipe=recipe,
                progress=progress,
            )
            for benchmark in benchmarks
        }
        summary = summarize_suite(suite, results)
        write_json(summary_path, summary)
        return summary


def answers_lock(output_dir: str | Path, name: str) -> Path:
    """The lock file of a benchmark's answers, or of a suite."""
    return Path(output_dir) / f".{name}{LOCK}"


def check_suite(
    suite: Suite | str | Path,
    data_root: str | Path,
    batch_size: int = 1,
    limit: int | None = None,
    seed: int = 0,
    benchmarks_dir: str | Path | None = None,
) -> tuple[Suite, list[Benchmark]]:
    """All that `evaluate_suite` can refuse without a model: the suite and its benchmarks, whose data files are read.

    Raises UserError as it does.
    """
    _check_numbers(batch_size, limit, seed)
    if not isinstance(suite, Suite):
        if benchmarks_dir is None and str(suite).endswith(".yaml"):
            benchmarks_dir = Path(suite).parent
        suite = load_suite(suite, benchmarks_dir)
    benchmarks = [load_benchmark(name, benchmarks_dir) for name in suite.benchmarks]
    for benchmark in benchmarks:
        BenchmarkSamples(benchmark, data_root)
    return suite, benchmarks


def _check_numbers(batch_size: int, limit: int | None, seed: int) -> None:
    """Raise UserError for what is too small or, of seeds, too large."""
    for name, value in (("batch_size", batch_size), ("limit", 1 if limit is None else limit)):
        if value < 1:
            raise UserError(f"{name}: {value} is too small; use 1 or more")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: {seed} must be from 0 to 2³² − 1")


_NO_EFFORT: Effort = {"batch_size": None, "batch_sizes": [], "resumed_after": 0, "wall_seconds": 0.0}


@dataclass
class _Evaluation:
    """One evaluation under way: which samples, in which files."""

    benchmark: Benchmark
    samples: BenchmarkSamples
    output_dir: Path
    processor: Any
    batch_size: int
    limit: int | None

    @property
    def total(self) -> int:
        """Samples to answer."""
        return min(len(self.samples), self.limit or len(self.samples))

    @property
    def records_path(self) -> Path:
        """The file of answers, one line each."""
        return self.output_dir / f"{self.benchmark.name}.jsonl"

    @property
    def result_path(self) -> Path:
        """The file of scores."""
        return self.output_dir / f"{self.benchmark.name}.json"

    def prompt(self, sample: BenchmarkSample) -> str:
        """The text that is sent for a sample, chat template included."""
        return chat_prompt(self.processor, self.benchmark.user_text(sample.question))

    def read_answers(self) -> list[AnswerRecord]:
        """The answers on disk."""
        return read_answers(self.records_path)

    def identity(self, model: Any, seed: int, recipe: Mapping[str, Any] | None) -> BenchmarkIdentity:
        """What the result file says about how it was measured."""
        benchmark = self.benchmark
        identity: BenchmarkIdentity = {
            "kind": "benchmark",
            "benchmark": benchmark.name,
            **table_fields(benchmark),
            "benchmark_definition": benchmark.definition(),
            "metrics_version": METRICS_VERSION,
            "decoding": "greedy, 1 beam",
            "model": describe_model(model),
            "seed": seed,
            "limit": self.limit,
            "available_samples": len(self.samples),
            "planned_samples": self.total,
            "recipe": dict(recipe or {}),
            "environment": environment(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return cast(BenchmarkIdentity, json.loads(json.dumps(identity, default=str)))

    def found(self, identity: Mapping[str, Any]) -> tuple[list[AnswerRecord], Effort]:
        """The answers of an earlier run and what they took. Raises UserError where they are not of this run."""
        if not self.records_path.exists():
            return [], _NO_EFFORT
        records = self.read_answers()
        if not records:
            return [], _NO_EFFORT
        earlier = read_json(self.result_path) if self.result_path.exists() else {}
        checked(earlier, BenchmarkResult, self.result_path, [*_NO_EFFORT] if earlier else [])
        for field in ("benchmark_definition", "metrics_version", "decoding", "model", "seed"):
            if difference := describe_change(earlier.get(field), identity[field], field):
                raise self._stale(difference)
        if difference := describe_change(_settled(earlier.get("recipe")), _settled(identity["recipe"]), "recipe"):
            raise self._stale(difference)
        if len(records) > self.total:
            raise self._stale(f"it has {len(records)} answers and the limit is {self.total}")
        for index, record in enumerate(records):
            sample = self.samples[index]
            now = {"id": sample.id, "prompt": self.prompt(sample), "references": sample.references}
            if difference := describe_change({key: record.get(key) for key in now}, now, f"line {index + 1}"):
                raise self._stale(difference)
        if len(records) < self.total:  # a batch that was cut is made again as a whole
            records = records[: len(records) - len(records) % self.batch_size]
        return records, cast(Effort, {key: earlier[key] for key in _NO_EFFORT}) if records else _NO_EFFORT

    def _stale(self, reason: str) -> UserError:
        remedy = "evaluate without resume or into another folder"
        return UserError(f"{self.records_path}: cannot resume: {reason}; {remedy}")

    def answer_rest(self, model: Any, done: int, progress: bool) -> None:
        """Generate and append the answers that follow the first `done`."""
        bar = tqdm(total=self.total, initial=done, desc=self.benchmark.name, disable=not progress)
        with writing(self.records_path), bar, self.records_path.open("a", encoding="utf-8") as file:
            for start in range(done, self.total, self.batch_size):
                indices = range(start, min(start + self.batch_size, self.total))
                batch = [self.samples[index] for index in indices]
                images = [self.samples.image(index) for index in indices]
                prompts = [self.prompt(sample) for sample in batch]
                with naming(f"benchmark {self.benchmark.name}: samples {', '.join(repr(one.id) for one in batch)}"):
                    answers = generate_answers(
                        model, self.processor, prompts, [[one] for one in images], self.benchmark.max_new_tokens
                    )
                for sample, image, prompt, answer in zip(batch, images, prompts, answers, strict=True):
                    file.write(to_line(self._record(sample, image.size, prompt, answer)))
                file.flush()
                bar.update(len(batch))

    def _record(
        self, sample: BenchmarkSample, image_size: tuple[int, int], prompt: str, answer: Answer
    ) -> AnswerRecord:
        record: AnswerRecord = {
            "index": sample.index,
            "id": sample.id,
            "prompt": prompt,
            "prediction": answer.text,
            "references": sample.references,
            "scores": {},
            "new_tokens": answer.new_tokens,
            "finished": answer.finished,
            "row": sample.kept | {"image_size": list(image_size)},
        }
        return with_scores(record, self.benchmark)


def _settled(recipe: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A recorded recipe with its method's defaults written out: results of earlier versions may leave them out."""
    return {**recipe, "method": settle_fields(recipe["method"])} if recipe and "method" in recipe else recipe
