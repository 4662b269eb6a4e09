"""Runs compared on the samples that they all answered: how sure the differences are, and which answers changed.

Only what was measured alike is compared: the same prompt, split, metrics, versions and samples. Anything else is
refused, by the name of the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyv.errors import UserError
from proxyv.evaluation.paired import bootstrap_interval, is_binary, is_mean, mcnemar_p
from proxyv.report.figures import protocol
from proxyv.report.score_files import read_answers, read_benchmark
from proxyv.results.check import checked
from proxyv.results.comparison import (
    ComparedBenchmark,
    ComparedRun,
    Comparison,
    Flip,
    Interval,
    McNemar,
    Pair,
    SampleScore,
)
from proxyv.results.scores import AnswerRecord, BenchmarkResult
from proxyv.schema import describe_change

NEEDED_OF_RESULTS = ("benchmark_definition", "metrics_version", "decoding")
NEEDED_OF_ANSWERS = ("id", "index", "prompt", "prediction", "references", "scores")
# Fields of a benchmark that may differ: they say what it is called and where its data lie.
_NAMES = ("title", "data")


@dataclass(frozen=True)
class Answered:
    """One run on one benchmark."""

    file: Path
    result: BenchmarkResult
    answers: list[AnswerRecord]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same in all runs."""
        definition = self.result["benchmark_definition"]
        return {
            "benchmark_definition": {key: value for key, value in definition.items() if key not in _NAMES},
            "metrics_version": self.result["metrics_version"],
            "decoding": self.result["decoding"],
        }

    def scores(self, name: str) -> list[float]:
        """A score of every sample."""
        return [answer["scores"][name] for answer in self.answers]


@dataclass(frozen=True)
class AnsweredRun:
    """One run: its benchmarks by name."""

    path: Path
    benchmarks: dict[str, Answered]


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Each run against the first, on every benchmark that all have.

    Args:
        paths: run folders, folders of results (a run's eval/), or single results (.json or .jsonl).

    Raises UserError where a file is missing, damaged, unfinished or contradicts itself, where runs were measured in
    different ways, and where they have no benchmark in common.
    """
    if len(paths) < 2:
        raise UserError("RUN: one run has nothing to be compared with; give two or more")
    runs = [AnsweredRun(Path(path), _read(Path(path))) for path in paths]
    common = [name for name in runs[0].benchmarks if all(name in run.benchmarks for run in runs)]
    if not common:
        have = "; ".join(f"{run.path} has {', '.join(run.benchmarks)}" for run in runs)
        raise UserError(f"RUN: the runs have no benchmark in common ({have}); evaluate them on the same ones")
    names = _names(runs)
    return {
        "runs": [_describe(name, run, common) for name, run in zip(names, runs, strict=True)],
        "benchmarks": {name: _compare(names, [run.benchmarks[name] for run in runs]) for name in common},
    }


def _read(path: Path) -> dict[str, Answered]:
    """The finished benchmarks of a run, by name."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give run folders or results")
    folder = path / "eval" if (path / "eval").is_dir() else path
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [path.with_suffix(".jsonl")]
    if parts := sorted(folder.glob("*.parts")):
        raise UserError(f"{parts[0]}: an evaluation is under way or was interrupted; finish it with --resume")
    if not files:
        raise UserError(f"{folder}: holds no answers (*.jsonl); evaluate first, or give the folder of an evaluation")
    found: dict[str, Answered] = {}
    for one in map(_read_benchmark, files):
        other = found.setdefault(one.result["benchmark"], one)
        if other is not one:
            raise UserError(f"{one.file}: field 'benchmark' is that of {other.file}; keep one of them in the folder")
    return found


def _read_benchmark(answers: Path) -> Answered:
    file = answers.with_suffix(".json")
    result = read_benchmark(file)
    if not result.get("complete"):
        raise UserError(f"{file}: field 'complete' is false; finish the evaluation with --resume")
    checked(result, BenchmarkResult, file, NEEDED_OF_RESULTS)
    found = read_answers(answers, NEEDED_OF_ANSWERS)
    if not found[0]["scores"] or any(set(one["scores"]) != set(found[0]["scores"]) for one in found):
        raise UserError(f"{answers}: field 'scores' is empty or not alike in all lines; score the answers again")
    return Answered(file, result, found)


def _names(runs: Sequence[AnsweredRun]) -> list[str]:
    """The runs' folders by name; by their whole path where two are called alike."""
    folders = [run.path.parent if run.path.name == "eval" else run.path for run in runs]
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(run.path) for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"RUN: '{next(n for n in names if names.count(n) > 1)}' is given twice; give each run once")
    return names


def _describe(name: str, run: AnsweredRun, common: Sequence[str]) -> ComparedRun:
    first: Mapping[str, Any] = next(iter(run.benchmarks.values())).result
    return {
        "name": name,
        "path": str(run.path),
        "recipe": (first.get("recipe") or {}).get("name"),
        "model": (first.get("model") or {}).get("path"),
        "benchmarks_left_out": [benchmark for benchmark in run.benchmarks if benchmark not in common],
    }


def _compare(names: Sequence[str], runs: Sequence[Answered]) -> ComparedBenchmark:
    """All runs on one benchmark. Raises UserError where they were measured in different ways."""
    first = runs[0]
    for other in runs[1:]:
        _check_alike(first, other)
    result = first.result
    main = result["main"]
    score = main if main in first.answers[0]["scores"] else next(iter(first.answers[0]["scores"]))
    averaged = score == main and all(is_mean(run.scores(score), run.result["scores"][main]) for run in runs)
    binary = all(is_binary(run.scores(score)) for run in runs)
    return {
        "title": result["title"],
        "main": main,
        "score": score,
        "averaged": averaged,
        "binary": binary,
        "num_samples": len(first.answers),
        "protocol": protocol(result, result["metrics_version"]),
        "main_scores": {name: run.result["main_score"] for name, run in zip(names, runs, strict=True)},
        "pairs": [
            _pair(name, first, other, score, averaged, binary) for name, other in zip(names[1:], runs[1:], strict=True)
        ],
    }


def _check_alike(first: Answered, other: Answered) -> None:
    """Raise UserError, naming the field, where two results were not measured alike or are of other samples."""
    remedy = f"compare what was measured alike (the first is {first.file})"
    if difference := describe_change(first.identity, other.identity):
        raise UserError(f"{other.file}: differs from the first run: {difference}; {remedy}")
    if len(first.answers) != len(other.answers):
        raise UserError(
            f"{other.file}: differs from the first run: num_samples was {len(first.answers)} and is "
            f"{len(other.answers)}; {remedy}"
        )
    for number, (one, two) in enumerate(zip(first.answers, other.answers, strict=True), start=1):
        for field in ("id", "references"):
            if difference := describe_change({field: one[field]}, {field: two[field]}):
                raise UserError(f"{other.file}: differs from the first run: sample {number}: {difference}; {remedy}")


def _pair(name: str, first: Answered, other: Answered, score: str, averaged: bool, binary: bool) -> Pair:
    changes = [two - one for one, two in zip(first.scores(score), other.scores(score), strict=True)]
    scale = first.result["scale"]
    higher, lower = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    interval: Interval | None = None
    mcnemar: McNemar | None = None
    if averaged:
        low, high = bootstrap_interval(changes)
        interval = {"low": low * scale, "high": high * scale}
    if binary:
        mcnemar = {"first_only": lower, "other_only": higher, "p": mcnemar_p(lower, higher)}
    changed = sorted((place for place, change in enumerate(changes) if change), key=lambda place: -abs(changes[place]))
    return {
        "other": name,
        "difference": other.result["main_score"] - first.result["main_score"],
        "interval": interval,
        "mcnemar": mcnemar,
        "higher": higher,
        "lower": lower,
        "flips": [_flip(first.answers[place], other.answers[place], score) for place in changed],
    }


def _flip(first: AnswerRecord, other: AnswerRecord, score: str) -> Flip:
    def answer(record: AnswerRecord) -> SampleScore:
        return {"prediction": record["prediction"], "score": record["scores"][score]}

    return {
        "index": first["index"],
        "id": first["id"],
        "prompt": first["prompt"],
        "references": first["references"],
        "first": answer(first),
        "other": answer(other),
    }
