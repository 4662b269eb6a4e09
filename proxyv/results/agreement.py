"""Whether the scores of a result file can be true: each a share, and all in agreement with what they are made of.

Results are plain files that anyone may edit. What is checked needs no model and no benchmark: a suite's score against
its terms, these against the benchmarks' scores, those against the answers beside them. Fields that files of earlier
versions lack pass.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.errors import UserError
from proxyv.results.scores import AnswerRecord, BenchmarkResult, SuitePart, SuiteResult
from proxyv.results.sweep import SweepRecipe

REMEDY = "score the answers again with `proxyv rescore FOLDER --write`, or evaluate again"
# Of a suite's part and the benchmark's own result, what must be the same.
SHARED = ("main", "scale", "main_score", "num_samples", "scores", "benchmark_definition")


def check_scores(part: BenchmarkResult | SuitePart, file: object, above: str = "") -> None:
    """Raise UserError where a benchmark's main score is not that of its `scores`, or one of these is no share.

    above: where the part stands in the file, as "benchmarks.docs."
    """
    if part["num_samples"] < 1:
        raise _wrong(file, f"{above}num_samples", part["num_samples"], "must be 1 or more")
    for name, score in part["scores"].items():
        if not 0 <= score <= 1:
            raise _wrong(file, f"{above}scores.{name}", score, "must lie between 0 and 1")
    if part["main"] not in part["scores"]:
        raise _wrong(file, f"{above}main", part["main"], f"is none of its scores ({', '.join(part['scores'])})")
    _agree(file, f"{above}main_score", part["main_score"], part["scores"][part["main"]] * part["scale"], "its scores")


def check_answers(result: BenchmarkResult, answers: Sequence[AnswerRecord], file: object) -> None:
    """Raise UserError where the scores of a finished result are not the means over the answers beside it.

    A score that is made of several answers together (`totals`) is not looked at.
    """
    if result["num_samples"] != len(answers):
        raise _wrong(file, "num_samples", result["num_samples"], f"contradicts the {len(answers)} answers beside it")
    for name in result["scores"].keys() - set(result.get("totals", [])):
        values = [answer["scores"][name] for answer in answers if name in answer["scores"]]
        if len(values) < len(answers):
            raise _wrong(file, f"scores.{name}", result["scores"][name], "has no counterpart in the answers beside it")
        _agree(file, f"scores.{name}", result["scores"][name], statistics.fmean(values), "the answers beside it")


def check_suite(suite: SuiteResult, file: object) -> None:
    """Raise UserError where a suite's score is not the mean of its terms, or a term or a part contradicts itself."""
    for name, part in suite["benchmarks"].items():
        check_scores(part, file, f"benchmarks.{name}.")
    if not suite["terms"]:
        raise _wrong(file, "terms", [], "must hold one at least")
    for number, term in enumerate(suite["terms"]):
        named = suite["benchmarks"].get(term["benchmark"])
        scores = {} if named is None else named["scores"]
        if term["score"] not in scores:
            raise _wrong(file, f"terms.{number}.score", term["score"], f"is no score of '{term['benchmark']}'")
        value = scores[term["score"]] * term["scale"]
        _agree(file, f"terms.{number}.value", term["value"], value, "its benchmark")
    _agree(file, "score", suite["score"], statistics.fmean(term["value"] for term in suite["terms"]), "its terms")


def check_part(part: SuitePart, own: BenchmarkResult, file: object, name: str, own_file: object) -> None:
    """Raise UserError where a suite's part says something else than the benchmark's own result."""
    theirs: Mapping[str, Any] = own
    for field, value in part.items():
        if field in SHARED and field in theirs and value != theirs[field]:
            found = f"contradicts {theirs[field]!r:.60} in {own_file}"
            raise _wrong(file, f"benchmarks.{name}.{field}", value, found)


def check_seeds(recipe: SweepRecipe, file: object, name: str) -> None:
    """Raise UserError where a sweep's means over seeds are not those of its seeds."""
    for figure, summary in recipe["summary"].items():
        values = _of_seeds(recipe, figure)
        if not values:
            raise _wrong(file, f"recipes.{name}.summary.{figure}", summary, "no seed has it")
        mean = statistics.fmean(values)
        _agree(file, f"recipes.{name}.summary.{figure}.mean", summary.get("mean", mean), mean, "its seeds")


def _of_seeds(recipe: SweepRecipe, figure: str) -> list[float]:
    """A summarised figure's values, of the seeds that have it."""
    runs = recipe["runs"].values()
    if figure == "suite_score":
        return [run["suite"]["score"] for run in runs if run["suite"]]
    if figure == "training_loss":
        return [run["training"]["loss"] for run in runs if run["training"]]
    return [run["benchmarks"][figure]["main_score"] for run in runs if figure in run["benchmarks"]]


def _agree(file: object, field: str, value: float, expected: float, source: str) -> None:
    """Raise UserError where a value is not what it follows from, but for rounding."""
    if not math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-6):
        raise _wrong(file, field, value, f"contradicts {source}, which make {expected:.6g}")


def _wrong(file: object, field: str, value: object, problem: str) -> UserError:
    return UserError(f"{file}: field '{field}' is {value!r:.60} and {problem}; {REMEDY}")
