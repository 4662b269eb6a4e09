"""Score stored results again: one benchmark, or a folder of them with the suites that are made of them.

Nothing is written before everything has been read and scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from proxyv.errors import UserError, naming
from proxyv.evaluation.answer_files import answers_lock
from proxyv.evaluation.benchmarks import Benchmark, load_benchmark, load_suite
from proxyv.evaluation.scoring import SUMMARIZED, read_answers, rescore, summarize_suite, table_fields
from proxyv.files import read_json, write_json
from proxyv.locks import only_process
from proxyv.results.check import checked
from proxyv.results.scores import BenchmarkResult, SuiteResult

RESULT_FIELDS = ("benchmark", "benchmark_definition", "planned_samples")
SUITE_FIELDS = ("suite", "score")


@dataclass(frozen=True)
class StoredResult:
    """A benchmark's answers, the result beside them, and the benchmark they are scored by."""

    answers: Path
    result: dict[str, Any]
    benchmark: Benchmark

    @property
    def path(self) -> Path:
        """The result's file."""
        return self.answers.with_suffix(".json")


def rescore_results(
    result: str | Path, *, benchmarks_dir: str | Path | None = None, write: bool = False
) -> dict[str, Any]:
    """Scores before and now, of benchmarks and of the suites in the same folder whose benchmarks are all there.

    Args:
        result: a benchmark's .jsonl or .json, or a folder of them.
        benchmarks_dir: where benchmarks and suites are looked up first, by the names that the results have.
        write: rewrite the answers' scores, the results and the suites' summaries.

    Returns, ready for JSON: `benchmarks`, by name `file`, `main`, `before` (None where the run did not finish), `now`,
    `scores`, `num_samples`; `suites`, by name `file`, `title`, `score_name`, `before`, `now`; and `written`.
    Raises UserError where a file is missing, damaged or no result, or a name is unknown.
    """
    stored = [_read(answers, benchmarks_dir) for answers in _answer_files(Path(result))]
    fresh = {one.benchmark.name: one.result | _score(one) for one in stored}
    folder = stored[0].path.parent
    suites = _suites(folder, fresh, benchmarks_dir)
    if write:
        for one in stored:
            with only_process(answers_lock(folder, one.benchmark.name)):
                rescore(one.answers, one.benchmark, write=True)
        written = {one.benchmark.name: read_json(one.path) for one in stored}
        for path, _, summary in _suites(folder, written, benchmarks_dir):
            write_json(path, summary)
    return {
        "benchmarks": {one.benchmark.name: _compare_benchmark(one, fresh[one.benchmark.name]) for one in stored},
        "suites": {summary["suite"]: _compare_suite(path, before, summary) for path, before, summary in suites},
        "written": write,
    }


def _answer_files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; run the evaluation first or fix the path")
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        if not found:
            raise UserError(f"{path}: holds no answers (*.jsonl); give the folder of an evaluation, as a run's eval/")
        return found
    if path.suffix not in (".json", ".jsonl"):
        raise UserError(f"{path}: is no result; give a benchmark's .jsonl or .json, or their folder")
    return [path.with_suffix(".jsonl")]


def _read(answers: Path, benchmarks_dir: str | Path | None) -> StoredResult:
    file = answers.with_suffix(".json")
    result = _read_kind(file, "benchmark", RESULT_FIELDS)
    found, planned = len(read_answers(answers)), result["planned_samples"]
    if not found:
        raise UserError(f"{answers}: holds no answers yet; finish the evaluation, by --resume")
    if found > planned or (result.get("complete") and found < planned):
        raise UserError(f"{answers}: holds {found} answers to {planned} samples; run the evaluation again")
    with naming(file):
        return StoredResult(answers, result, load_benchmark(result["benchmark"], benchmarks_dir))


def _read_kind(path: Path, kind: str, fields: tuple[str, ...]) -> dict[str, Any]:
    value = read_json(path)
    if value.get("kind") != kind or any(name not in value for name in fields):
        raise UserError(f"{path}: is no result of a {kind}; give a benchmark's .jsonl or .json, or their folder")
    record: type[Any] = BenchmarkResult if kind == "benchmark" else SuiteResult
    return cast("dict[str, Any]", checked(value, record, path))


def _score(stored: StoredResult) -> dict[str, Any]:
    """What is new in the result."""
    try:
        return {**rescore(stored.answers, stored.benchmark), **table_fields(stored.benchmark)}
    except KeyError as error:
        name = stored.benchmark.name
        raise UserError(f"{stored.answers}: column {error} was not kept; evaluate {name} again") from error


def _suites(
    folder: Path, results: Mapping[str, Mapping[str, Any]], benchmarks_dir: str | Path | None
) -> list[tuple[Path, dict[str, Any], SuiteResult]]:
    """File, old summary and new one of each suite in the folder whose benchmarks are all finished there; `results`
    take the place of those on disk."""
    found = []
    for path in sorted(folder.glob("suite-*.json")):
        before = _read_kind(path, "suite", SUITE_FIELDS)
        with naming(path):
            suite = load_suite(before["suite"], benchmarks_dir)
        files = {name: path.with_name(f"{name}.json") for name in suite.benchmarks}
        parts = {name: results.get(name) or (read_json(file) if file.is_file() else {}) for name, file in files.items()}
        if all(part.get("complete") for part in parts.values()):
            whole = {name: checked(part, BenchmarkResult, files[name], SUMMARIZED) for name, part in parts.items()}
            found.append((path, before, summarize_suite(suite, whole)))
    return found


def _compare_benchmark(stored: StoredResult, fresh: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "file": str(stored.path),
        "main": fresh["main"],
        "before": stored.result.get("main_score"),
        "now": fresh["main_score"],
        "scores": fresh["scores"],
        "num_samples": fresh["num_samples"],
    }


def _compare_suite(path: Path, before: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: summary[key] for key in ("title", "score_name")}
    return {"file": str(path), **shown, "before": before["score"], "now": summary["score"]}
