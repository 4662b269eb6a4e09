"""What a sweep has done: from the files of its folder to sweep.json, and from that alone to the table and the plot.

sweep.json is a `SweepResult` (proxyv/results/sweep.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxyv.checkpoints.run_folder import FINISHED, RECIPE, is_finished, stage_names
from proxyv.config import load_recipe
from proxyv.files import read_json, write_json
from proxyv.methods import describe_method, make_method
from proxyv.report.figures import protocol
from proxyv.report.make import write_files
from proxyv.report.means import MeanOverRuns
from proxyv.report.plots import Panel, Point
from proxyv.report.runs import SWEEP, read_sweep
from proxyv.report.score_files import read_suite
from proxyv.report.tables import tabulate, to_markdown
from proxyv.results.check import checked
from proxyv.results.origin import EnvironmentRecord
from proxyv.results.scores import SuiteResult
from proxyv.results.sweep import (
    SeedSummary,
    SharedTraining,
    StageSummary,
    SweepProfile,
    SweepRecipe,
    SweepResult,
    SweepRun,
    TrainingSummary,
)

SHARED = "shared"
PROFILED = (
    *("decoder_flops", "total_flops", "decoder_flops_reduction", "total_flops_reduction"),
    *("crops", "vision_tokens", "text_tokens"),
)


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def collect(output: Path, failed: Mapping[str, Mapping[str, str]]) -> SweepResult:
    """The content of sweep.json: all that is finished below `output`; `failed`: recipe → what → message."""
    folders = sorted(file.parent for file in output.glob(f"*/{RECIPE}"))
    shared = {str(seed): _training(folder) for seed, folder in _seeds(output / SHARED)}
    return {
        "kind": "sweep",
        "recipes": {folder.name: _recipe(folder, failed.get(folder.name, {})) for folder in folders},
        "shared": {seed: training for seed, training in shared.items() if training is not None},
    }


def _seeds(folder: Path) -> list[tuple[int, Path]]:
    found = ((path.name.removeprefix("seed-"), path) for path in folder.glob("seed-*"))
    return sorted((int(seed), path) for seed, path in found if seed.isdecimal())


def _recipe(folder: Path, failed: Mapping[str, str]) -> SweepRecipe:
    environments: list[EnvironmentRecord] = []
    runs: dict[str, SweepRun] = {}
    for seed, run in _seeds(folder):
        training, suite = _training(run), _suite(run)
        for record in (training, suite):
            if record is not None and record["environment"] not in environments:
                environments.append(record["environment"])
        if training is not None or suite is not None:
            runs[str(seed)] = _run(training, suite)
    return {
        "method": describe_method(make_method(load_recipe(folder / RECIPE).method)),
        "profile": _profile(folder / "profile.json"),
        "seeds": [int(seed) for seed in runs],
        "runs": runs,
        "summary": _summary(runs),
        "failed": dict(failed),
        "environments": environments,
    }


def _profile(file: Path) -> SweepProfile:
    profile = read_json(file) if file.is_file() else {}
    return checked({key: profile[key] for key in PROFILED if key in profile}, SweepProfile, file)


def _training(run: Path) -> SharedTraining | None:
    """Steps and seconds of a finished run's stages and the loss at its end; None where one is not finished."""
    names = stage_names(load_recipe(run / RECIPE)) if (run / RECIPE).is_file() else []
    if not names or not all(is_finished(run / name) for name in names):
        return None
    files = {name: run / name / FINISHED for name in names}
    records = {name: read_json(file) for name, file in files.items()}
    for name, file in files.items():
        checked(records[name], StageSummary, file, ("steps", "loss", "seconds"))
    checked(records[names[-1]], SharedTraining, files[names[-1]], ("environment",))
    last = records[names[-1]]
    return {
        "loss": last["loss"],
        "steps": sum(record["steps"] for record in records.values()),
        "stages": {
            name: {"steps": record["steps"], "loss": record["loss"], "seconds": record["seconds"]}
            for name, record in records.items()
        },
        "environment": last["environment"],
    }


def _suite(run: Path) -> SuiteResult | None:
    """A run's result on its suite; None where it has not been evaluated to the end."""
    file = next(iter(sorted((run / "eval").glob("suite-*.json"))), None)
    suite = None if file is None else read_suite(file, also=("suite", "metrics_version", "environment"))
    return suite if suite is not None and suite.get("complete") else None


def _run(training: TrainingSummary | None, suite: SuiteResult | None) -> SweepRun:
    """What sweep.json holds of one seed; environments are listed once for all seeds."""
    run: SweepRun = {"training": None, "suite": None, "benchmarks": {}}
    if training is not None:
        run["training"] = {"loss": training["loss"], "steps": training["steps"], "stages": training["stages"]}
    if suite is not None:
        run["suite"] = {
            "suite": suite["suite"],
            "title": suite["title"],
            "score_name": suite["score_name"],
            "score": suite["score"],
        }
        run["benchmarks"] = {
            name: {
                "title": part["title"],
                "main": part["main"],
                "main_score": part["main_score"],
                "num_samples": part["num_samples"],
                "protocol": protocol(part, suite["metrics_version"]),
            }
            for name, part in suite["benchmarks"].items()
        }
    return run


def _summary(runs: Mapping[str, SweepRun]) -> dict[str, SeedSummary]:
    """Mean and sample standard deviation over seeds of each benchmark, the suite's score and the final loss."""
    values: dict[str, list[float]] = {}
    for run in runs.values():
        for name, part in run["benchmarks"].items():
            values.setdefault(name, []).append(part["main_score"])
        if run["suite"]:
            values.setdefault("suite_score", []).append(run["suite"]["score"])
        if run["training"]:
            values.setdefault("training_loss", []).append(run["training"]["loss"])
    figures = {name: MeanOverRuns.of(of) for name, of in values.items()}
    return {
        name: {"mean": figure.mean, "spread": figure.spread if figure.runs > 1 else None, "seeds": figure.runs}
        for name, figure in figures.items()
    }


def sweep_table(results: SweepResult) -> str:
    """The result as a Markdown table, one row a recipe, notes below it."""
    return to_markdown(tabulate(read_sweep(results)))


def score_panel(results: SweepResult) -> Panel:
    """Each recipe's suite score, with its spread over seeds, against its decoder FLOPs in percent of `full`'s."""
    points, names = [], dict[str, None]()
    for name, recipe in results["recipes"].items():
        reduction, score = recipe["profile"].get("decoder_flops_reduction"), recipe["summary"].get("suite_score")
        if reduction is None or score is None:
            continue
        cost = MeanOverRuns(100 * (1 - reduction), 0.0, 1)
        points.append(Point(name, cost, MeanOverRuns(score["mean"], score["spread"] or 0.0, score["seeds"])))
        names |= {run["suite"]["score_name"]: None for run in recipe["runs"].values() if run["suite"]}
    return Panel("decoder FLOPs of the prefill (% of full)", " / ".join(names) or "score", points)


def failures(results: SweepResult) -> str | None:
    """One line that names the recipes that failed, each with its first message; None where all went well."""
    failed = {name: recipe["failed"] for name, recipe in results["recipes"].items() if recipe["failed"]}
    reasons = [f"{name} ({', '.join(of)}): {next(iter(of.values()))}" for name, of in failed.items()]
    return f"{len(reasons)} of {len(results['recipes'])} recipes failed: {'; '.join(reasons)}" if reasons else None


def write_results(output: Path, results: SweepResult, tables: bool) -> None:
    """Write sweep.json and, with `tables`, what is made from it: sweep.md, sweep.csv, sweep.png."""
    write_json(output / SWEEP, results)
    if tables:
        write_files(tabulate(read_sweep(results)), [score_panel(results)], output / SWEEP)
