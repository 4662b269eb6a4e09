"""What a sweep has done: from the files of its folder to sweep.json, and from that alone to the table and the plot.

sweep.json holds for each recipe its method with all fields, the figures of its profile, every seed's training and
scores, their mean and sample standard deviation (null for one seed) under `summary`, and what failed in the last call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxyv.checkpoints.run_folder import FINISHED, RECIPE, is_finished, stage_names
from proxyv.config import load_recipe
from proxyv.files import read_json, write_json
from proxyv.methods import describe_method, make_method
from proxyv.report.means import MeanOverRuns
from proxyv.report.plots import Panel, Point, plot_scores
from proxyv.report.runs import SWEEP, protocol, read_sweep
from proxyv.report.tables import tabulate, to_markdown, write_csv

SHARED = "shared"
PROFILED = (
    *("decoder_flops", "total_flops", "decoder_flops_reduction", "total_flops_reduction"),
    *("crops", "vision_tokens", "text_tokens"),
)


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def collect(output: Path, failed: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The content of sweep.json: all that is finished below `output`; `failed`: recipe → what → message."""
    folders = sorted(file.parent for file in output.glob(f"*/{RECIPE}"))
    shared = {str(seed): _training(folder) for seed, folder in _seeds(output / SHARED)}
    return {
        "kind": "sweep",
        "recipes": {folder.name: _recipe(folder, failed.get(folder.name, {})) for folder in folders},
        "shared": {seed: training for seed, training in shared.items() if training},
    }


def _seeds(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.name.removeprefix("seed-")), path) for path in folder.glob("seed-*"))


def _recipe(folder: Path, failed: Mapping[str, str]) -> dict[str, Any]:
    profile_file = folder / "profile.json"
    profile = read_json(profile_file) if profile_file.is_file() else {}
    environments: list[dict[str, Any]] = []
    runs = {}
    for seed, run in _seeds(folder):
        training, suite = _training(run), _suite(run)
        for part in (training, suite):
            environment = part.pop("environment", None)
            if environment is not None and environment not in environments:
                environments.append(environment)
        if training or suite:
            benchmarks = suite.pop("benchmarks", {})
            runs[str(seed)] = {"training": training or None, "suite": suite or None, "benchmarks": benchmarks}
    return {
        "method": describe_method(make_method(load_recipe(folder / RECIPE).method)),
        "profile": {key: profile[key] for key in PROFILED if key in profile},
        "seeds": [int(seed) for seed in runs],
        "runs": runs,
        "summary": _summary(runs),
        "failed": dict(failed),
        "environments": environments,  # more than one where versions or machine changed in between
    }


def _training(run: Path) -> dict[str, Any]:
    """Steps and seconds of a finished run's stages and the loss at its end; empty where one is not finished."""
    names = stage_names(load_recipe(run / RECIPE)) if (run / RECIPE).is_file() else []
    if not names or not all(is_finished(run / name) for name in names):
        return {}
    records = {name: read_json(run / name / FINISHED) for name in names}
    return {
        "loss": records[names[-1]]["loss"],
        "steps": sum(record["steps"] for record in records.values()),
        "stages": {
            name: {key: record[key] for key in ("steps", "loss", "seconds")} for name, record in records.items()
        },
        "environment": records[names[-1]]["environment"],
    }


def _suite(run: Path) -> dict[str, Any]:
    """A run's scores on its suite; empty where it has not been evaluated to the end."""
    file = next(iter(sorted((run / "eval").glob("suite-*.json"))), None)
    if file is None:
        return {}
    suite = read_json(file)
    kept = ("title", "main", "main_score", "num_samples")
    return {
        **{key: suite[key] for key in ("suite", "title", "score_name", "score", "environment")},
        "benchmarks": {
            name: {key: part[key] for key in kept} | {"protocol": protocol(part, suite["metrics_version"])}
            for name, part in suite["benchmarks"].items()
        },
    }


def _summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


def sweep_table(results: Mapping[str, Any]) -> str:
    """The result as a Markdown table, one row a recipe, notes below it."""
    return to_markdown(tabulate(read_sweep(results)))


def plot_sweep(results: Mapping[str, Any], path: Path) -> None:
    """Each recipe's suite score, with its spread over seeds, against its decoder FLOPs in percent of `full`'s."""
    points, names = [], dict[str, None]()
    for name, recipe in results["recipes"].items():
        reduction, score = recipe["profile"].get("decoder_flops_reduction"), recipe["summary"].get("suite_score")
        if reduction is None or score is None:
            continue
        cost = MeanOverRuns(100 * (1 - reduction), 0.0, 1)
        points.append(Point(name, cost, MeanOverRuns(score["mean"], score["spread"] or 0.0, score["seeds"])))
        names |= {run["suite"]["score_name"]: None for run in recipe["runs"].values() if run["suite"]}
    axis = "decoder FLOPs of the prefill (% of full)"
    plot_scores([Panel(axis, " / ".join(names) or "score", points)], path)


def failures(results: Mapping[str, Any]) -> str | None:
    """One line that names the recipes that failed, each with its first message; None where all went well."""
    failed = {name: recipe["failed"] for name, recipe in results["recipes"].items() if recipe["failed"]}
    told = [f"{name} ({', '.join(of)}): {next(iter(of.values()))}" for name, of in failed.items()]
    return f"{len(told)} of {len(results['recipes'])} recipes failed: {'; '.join(told)}" if told else None


def write_results(output: Path, results: Mapping[str, Any], tables: bool) -> None:
    """Write sweep.json and, with `tables`, what is made from it: sweep.md, sweep.csv, sweep.png."""
    write_json(output / SWEEP, results)
    if tables:
        file = output / SWEEP
        plot = file.with_suffix(".png")
        file.with_suffix(".md").write_text(
            f"{sweep_table(results)}\n![Score against cost]({plot.name})\n", encoding="utf-8"
        )
        write_csv(tabulate(read_sweep(results)), file.with_suffix(".csv"))
        plot_sweep(results, plot)
