"""From stored answers to scores: per sample, per benchmark, per suite; no model is needed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import Benchmark, Suite, load_benchmark
from proxyv.evaluation.metrics import METRICS_VERSION
from proxyv.files import Record, read_json, read_records, write_json, write_records


def summarize(records: Sequence[Record], benchmark: Benchmark) -> dict[str, Any]:
    """The means of all scores, over all samples and for each group, and statistics of the answers' lengths."""
    if not records:
        raise UserError(f"benchmark {benchmark.name}: no samples; the data file is empty")
    scores = _means(records)
    groups: dict[str, list[Record]] = {}
    for record in records if benchmark.group_by else []:
        groups.setdefault(str(record["row"][benchmark.group_by]), []).append(record)
    lengths = [record["new_tokens"] for record in records]
    return {
        "num_samples": len(records),
        "scores": scores,
        "main_score": scores[benchmark.main] * benchmark.scale,
        "groups": {name: {"num_samples": len(g), **_means(g)} for name, g in sorted(groups.items())},
        "generated_tokens": {
            "total": sum(lengths),
            "mean": statistics.fmean(lengths),
            "max": max(lengths),
            "cut_short": sum(not record["finished"] for record in records),
        },
    }


def summarize_suite(suite: Suite, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A suite's score from its benchmarks' results: the mean of its terms."""
    terms = [
        {
            "benchmark": term.benchmark,
            "score": term.score,
            "scale": term.scale,
            "value": results[term.benchmark]["scores"][term.score] * term.scale,
        }
        for term in suite.terms
    ]
    first = next(iter(results.values()))
    shared = ("model", "seed", "limit", "batch_size", "recipe", "environment", "metrics_version", "created")
    listed = ("title", "main", "main_score", "scale", "num_samples", "scores", "benchmark_definition")
    return {
        "kind": "suite",
        "suite": suite.name,
        "title": suite.title,
        "complete": True,
        "score_name": suite.score_name,
        "score": statistics.fmean(term["value"] for term in terms),
        "terms": terms,
        "benchmarks": {name: {key: result[key] for key in listed} for name, result in results.items()},
        "wall_seconds": round(sum(result["wall_seconds"] for result in results.values()), 3),
        **{key: first[key] for key in shared},
    }


def rescore(records_path: str | Path, benchmark: Benchmark | str | Path, *, write: bool = False) -> dict[str, Any]:
    """Score stored answers again, without a model; returns `summarize`'s fields.

    With `write` the lines and the result file beside them are rewritten with the new scores; what the file says
    about the prompt that was sent stays.
    Raises UserError where the file is missing or holds no answers of this benchmark.
    """
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(benchmark)
    path = Path(records_path)
    try:
        records = [r | {"scores": score_record(benchmark, r)} for r in read_records(path)]
    except KeyError as error:
        raise UserError(f"{path}: field {error} is missing; was it written for {benchmark.name}?") from error
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


def table_fields(benchmark: Benchmark) -> dict[str, Any]:
    """What tables need to know of a benchmark beside its scores."""
    return {"title": benchmark.title, "main": benchmark.main, "scale": benchmark.scale}


def score_record(benchmark: Benchmark, record: Record) -> dict[str, float]:
    """All scores of one answer, from its `prediction`, `references` and `row`."""
    scores: dict[str, float] = {}
    for metric in benchmark.used_metrics:
        scores |= metric.function(record["prediction"], record["references"], record["row"])
    return scores


def _means(records: Sequence[Record]) -> dict[str, float]:
    return {name: statistics.fmean(r["scores"][name] for r in records) for name in records[0]["scores"]}
