"""Result files of an evaluation → a run's scores. What contradicts itself, or the files beside it, is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from proxyv.errors import UserError
from proxyv.files import read_json, read_records
from proxyv.report.figures import BenchmarkFigures, RunFigures, protocol
from proxyv.results.agreement import check_answers, check_part, check_scores, check_suite
from proxyv.results.check import checked
from proxyv.results.scores import AnswerRecord, BenchmarkResult, SuitePart, SuiteResult
from proxyv.results.sweep import SweepBenchmark, SweepSuite

# What tables read, and every version wrote.
NEEDED_OF_PARTS = ("title", "main", "main_score", "scale", "scores", "num_samples")
NEEDED_OF_BENCHMARKS = (*NEEDED_OF_PARTS, "benchmark")
NEEDED_OF_SUITES = (
    *("title", "score_name", "score", "benchmarks", *(f"benchmarks.*.{name}" for name in NEEDED_OF_PARTS)),
    *("terms", *(f"terms.*.{name}" for name in ("benchmark", "score", "scale", "value"))),
)


def read_suite(file: Path, also: Sequence[str] = ()) -> SuiteResult:
    """A suite's result; `also`: more fields that a finished one must have. Raises UserError as `add_scores` does."""
    result = read_json(file)
    suite = checked(result, SuiteResult, file, (*NEEDED_OF_SUITES, *also) if result.get("complete") else ())
    if not result.get("complete"):
        return suite
    check_suite(suite, file)
    for name, part in suite["benchmarks"].items():
        beside = file.with_name(f"{name}.json")
        own = checked(read_json(beside), BenchmarkResult, beside) if beside.is_file() else None
        if own is not None and own.get("complete"):
            check_part(part, own, file, name, beside)
    return suite


def read_benchmark(file: Path) -> BenchmarkResult:
    """A benchmark's result. Raises UserError as `add_scores` does."""
    result = read_json(file)
    read = checked(result, BenchmarkResult, file, NEEDED_OF_BENCHMARKS if result.get("complete") else ())
    if not result.get("complete"):
        return read
    check_scores(read, file)
    answers = file.with_suffix(".jsonl")
    if answers.is_file():
        check_answers(read, read_answers(answers), file)
    return read


def add_scores(run: RunFigures, file: Path) -> None:
    """Put a benchmark's or a suite's result into the run's columns.

    Raises UserError where the file is damaged, or its scores contradict each other, the answers beside it or the
    benchmarks' own results.
    """
    result = read_suite(file) if read_json(file).get("kind") == "suite" else read_benchmark(file)
    run.recipe = str((result.get("recipe") or {}).get("name") or run.recipe)
    if not result.get("complete"):
        run.unfinished.append(file.name)
        return
    parts: Mapping[str, BenchmarkResult | SuitePart]
    parts = result["benchmarks"] if result["kind"] == "suite" else {result["benchmark"]: result}
    for name, part in parts.items():
        how, whole = protocol(part, result.get("metrics_version")), result.get("limit") is None
        add_benchmark(run, name, part, BenchmarkFigures(part["main_score"], part["scores"], how, whole), file)
    if result["kind"] == "suite":
        add_suite(run, result)


def add_benchmark(
    run: RunFigures,
    name: str,
    part: BenchmarkResult | SuitePart | SweepBenchmark,
    figures: BenchmarkFigures,
    file: Path,
) -> None:
    """Put one benchmark's figures into its column. Raises UserError where another benchmark has that column."""
    column = f"{part['title']} ({part['main']})"
    if column in run.scores and name not in run.benchmarks:
        raise UserError(f"{file}: field 'title': two benchmarks are called '{column}'; give them titles of their own")
    run.scores[column], run.protocols[column], run.benchmarks[name] = figures.main_score, figures.protocol, figures


def add_suite(run: RunFigures, suite: SuiteResult | SweepSuite) -> None:
    """Put a suite's score into its column, behind its benchmarks."""
    column = f"{suite['title']}: {suite['score_name']}"
    run.suites[column] = suite["score"]
    # A suite is measured as its benchmarks are; a sweep says no more than that.
    parts = suite.get("benchmarks")
    names = run.benchmarks if not isinstance(parts, Mapping) else parts
    run.protocols[column] = "; ".join(f"{name}: {run.benchmarks[name].protocol}" for name in names)


def read_answers(path: Path, needed: Sequence[str] = ("scores",)) -> list[AnswerRecord]:
    """The answers in a file, each with the fields `needed`. Raises UserError where it is damaged or a line is none."""
    return [
        checked(record, AnswerRecord, f"{path}: line {number}", needed)
        for number, record in enumerate(read_records(path), start=1)
    ]
