"""From stored answers to scores: per sample, per benchmark, per suite; no model is needed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxyv.errors import UserError, naming
from proxyv.evaluation.benchmarks import Benchmark, Suite, load_benchmark
from proxyv.evaluation.metrics import METRICS_VERSION
from proxyv.files import read_json, write_json, write_records
from proxyv.report import score_files
from proxyv.results.scores import (
    AnswerRecord,
    BenchmarkResult,
    ScoreSummary,
    SuitePart,
    SuiteResult,
    TableFields,
    TermValue,
)

# What scoring reads of a line of answers, and every version wrote.
NEEDED_OF_ANSWERS = ("prediction", "references", "row", "new_tokens", "finished")


def summarize(records: Sequence[AnswerRecord], benchmark: Benchmark) -> ScoreSummary:
    """All scores, over all samples and for each group, and statistics of the answers' lengths.

    Raises UserError where there are no answers.
    """
    if not records:
        raise UserError(f"benchmark {benchmark.name}: no samples; the data file is empty")
    scores = _totals(records, benchmark)
    groups: dict[str, list[AnswerRecord]] = {}
    if benchmark.group_by is not None:
        for record in records:
            groups.setdefault(str(record["row"][benchmark.group_by]), []).append(record)
    lengths = [record["new_tokens"] for record in records]
    return {
        "num_samples": len(records),
        "scores": scores,
        "totals": [name for metric in benchmark.used_metrics if metric.total is not None for name in metric.scores],
        "main_score": scores[benchmark.main] * benchmark.scale,
        "groups": {name: {"num_samples": len(g), **_totals(g, benchmark)} for name, g in sorted(groups.items())},
        "generated_tokens": {
            "total": sum(lengths),
            "mean": statistics.fmean(lengths),
            "max": max(lengths),
            "cut_short": sum(not record["finished"] for record in records),
        },
    }


# What a suite's summary takes from its benchmarks' results.
SUMMARIZED = (
    *("title", "main", "main_score", "scale", "num_samples", "scores", "benchmark_definition", "wall_seconds", "model"),
    *("seed", "limit", "batch_size", "recipe", "environment", "metrics_version", "created"),
)


def summarize_suite(suite: Suite, results: Mapping[str, BenchmarkResult]) -> SuiteResult:
    """A suite's score from its benchmarks' results: the mean of its terms."""
    terms: list[TermValue] = [
        {
            "benchmark": term.benchmark,
            "score": term.score,
            "scale": term.scale,
            "value": results[term.benchmark]["scores"][term.score] * term.scale,
        }
        for term in suite.terms
    ]
    first = next(iter(results.values()))
    return {
        "kind": "suite",
        "suite": suite.name,
        "title": suite.title,
        "complete": True,
        "score_name": suite.score_name,
        "score": statistics.fmean(term["value"] for term in terms),
        "terms": terms,
        "benchmarks": {name: _suite_part(result) for name, result in results.items()},
        "wall_seconds": round(sum(result["wall_seconds"] for result in results.values()), 3),
        "model": first["model"],
        "seed": first["seed"],
        "limit": first["limit"],
        "batch_size": first["batch_size"],
        "recipe": first["recipe"],
        "environment": first["environment"],
        "metrics_version": first["metrics_version"],
        "created": first["created"],
    }


def _suite_part(result: BenchmarkResult) -> SuitePart:
    return {
        "title": result["title"],
        "main": result["main"],
        "main_score": result["main_score"],
        "scale": result["scale"],
        "num_samples": result["num_samples"],
        "scores": result["scores"],
        "benchmark_definition": result["benchmark_definition"],
    }


def read_answers(path: Path) -> list[AnswerRecord]:
    """The answers in a file, with all that scoring reads. Raises UserError where it is damaged or a line is none."""
    return score_files.read_answers(path, NEEDED_OF_ANSWERS)


def rescore(records_path: str | Path, benchmark: Benchmark | str | Path, *, write: bool = False) -> ScoreSummary:
    """Score stored answers again, without a model; returns `summarize`'s fields.

    With `write` the lines and the result file beside them are rewritten with the new scores; what the file says
    about the prompt that was sent stays.
    Raises UserError where the file is missing or holds no answers of this benchmark.
    """
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(benchmark)
    path = Path(records_path)
    with naming(path):
        try:
            records = [with_scores(record, benchmark) for record in read_answers(path)]
        except KeyError as error:
            raise UserError(f"field {error} is missing; was it written for {benchmark.name}?") from error
        summary = summarize(records, benchmark)
    if write:
        result_path = path.with_suffix(".json")
        result = read_json(result_path)
        new, scoring = benchmark.definition(), ("title", "metrics", "main", "scale", "group_by")
        definition = result["benchmark_definition"] | {key: new[key] for key in scoring}
        fresh = {
            "benchmark_definition": definition,
            "metrics_version": METRICS_VERSION,
            "complete": len(records) == result["planned_samples"],
        }
        write_records(path, records)
        write_json(result_path, result | fresh | table_fields(benchmark) | summary)
    return summary


def table_fields(benchmark: Benchmark) -> TableFields:
    """What tables need of a benchmark beside its scores."""
    return {"title": benchmark.title, "main": benchmark.main, "scale": benchmark.scale}


def with_scores(record: AnswerRecord, benchmark: Benchmark) -> AnswerRecord:
    """The answer with all its scores, from its `prediction`, `references` and `row`.

    Raises UserError where these cannot be scored.
    """
    scores: dict[str, float] = {}
    for metric in benchmark.used_metrics:
        if problem := metric.problem(record["row"]) or (
            metric.uses_references and not record["references"] and "no answers"
        ):
            raise UserError(f"sample '{record.get('id')}': {problem}; metric '{metric.name}' cannot score it")
        scores |= metric.function(record["prediction"], record["references"], record["row"])
    return {**record, "scores": scores}


def _totals(records: Sequence[AnswerRecord], benchmark: Benchmark) -> dict[str, float]:
    """The benchmark's scores from those of its samples."""
    with naming(f"benchmark {benchmark.name}"):
        return {name: score for metric in benchmark.used_metrics for name, score in metric.totals(records).items()}
