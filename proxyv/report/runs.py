"""Result files → runs: what each one scores and costs, column by column.

A run is a folder that holds any of

    eval/<benchmark>.json, eval/suite-<suite>.json    proxyv/results/scores.py
    profile.json                                      proxyv/results/profile.py
    bench.json                                        proxyv/results/bench.py

The runs of a sweep are read from its own result file, sweep.json (proxyv/results/sweep.py). Fields that files of
earlier versions lack are optional here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.report.published import published_figure
from proxyv.results.bench import FlatBench
from proxyv.results.check import checked
from proxyv.results.profile import Profile
from proxyv.results.scores import BenchmarkResult, SuitePart, SuiteResult
from proxyv.results.sweep import SweepProfile, SweepResult, SweepSuite
from proxyv.yaml_files import read_yaml

FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED = "decoder GFLOPs", "FLOPs reduction %", "published FLOPs reduction %"
TOTAL_SAVED, PREFILL_SAVED, LOSS = "total FLOPs reduction %", "prefill time reduction %", "final training loss"
COSTS = (FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED, TOTAL_SAVED, PREFILL_SAVED, LOSS)
SWEEP = "sweep.json"
# What tables read, and every version wrote.
NEEDED_OF_PARTS = ("title", "main", "main_score", "num_samples")
NEEDED_OF_SUITES = ("title", "score_name", "score", "benchmarks", *(f"benchmarks.*.{name}" for name in NEEDED_OF_PARTS))
NEEDED_OF_SWEEPS = (
    "recipes",
    *(f"recipes.*.{name}" for name in ("profile", "runs", "summary", "failed")),
    *(f"recipes.*.runs.*.{name}" for name in ("training", "suite", "benchmarks")),
    *(f"recipes.*.runs.*.benchmarks.*.{name}" for name in ("title", "main", "main_score", "protocol")),
    *(f"recipes.*.runs.*.suite.{name}" for name in ("title", "score_name", "score")),
    "recipes.*.runs.*.training.loss",
)


@dataclass
class RunFigures:
    """One run's figures by column. `protocols`: how a score's column was measured, in words."""

    folder: Path
    recipe: str
    scores: dict[str, float] = field(default_factory=dict)
    suites: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    failed: str | None = None  # why a sweep has no figures of it

    @property
    def figures(self) -> dict[str, float]:
        """All figures; benchmarks first, then suites, then costs."""
        return self.scores | self.suites | self.costs


def find_runs(paths: Sequence[str | Path]) -> list[RunFigures]:
    """All runs below the folders, or behind the single files, of `paths`; a sweep's folder means its result.

    Raises UserError where a path does not exist, a file cannot be read, or there are no results.
    """
    files: dict[Path, set[Path]] = {}
    runs: list[RunFigures] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give run folders or result files")
        sweep = path if path.name == SWEEP else path / SWEEP
        if sweep.is_file():
            runs += read_sweep(checked(read_json(sweep), SweepResult, sweep, NEEDED_OF_SWEEPS))
            continue
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if _holds_results(file, named=path.is_file()):
                folder = file.parent.parent if file.parent.name == "eval" else file.parent
                files.setdefault(folder.resolve(), set()).add(file.resolve())
    if not files and not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no results here; run `proxyv eval` first")
    return runs + [_read_run(folder, sorted(files[folder])) for folder in sorted(files)]


def read_sweep(results: SweepResult) -> list[RunFigures]:
    """A run for each recipe and seed of a sweep; one for a recipe that was only counted; one for each failure."""
    runs = []
    for name, recipe in results["recipes"].items():
        whole = RunFigures(Path(name), name)  # the only one where the recipe was only counted
        _read_profile(whole, recipe["profile"])
        saved = _find(recipe["profile"], "total_flops_reduction")
        if saved is not None:
            whole.costs[TOTAL_SAVED] = 100 * saved
        seeds = []
        for seed, result in recipe["runs"].items():
            run = RunFigures(Path(f"seed {seed}"), name, costs=dict(whole.costs))
            for part in result["benchmarks"].values():
                column = _column(part["title"], part["main"])
                run.scores[column] = part["main_score"]
                run.protocols[column] = part["protocol"]
            if result["suite"]:
                run.suites[_suite_column(result["suite"])] = result["suite"]["score"]
            if result["training"]:
                run.costs[LOSS] = result["training"]["loss"]
            seeds.append(run)
        seeds += [RunFigures(Path(what), name, failed=message) for what, message in recipe["failed"].items()]
        runs += seeds or [whole]
    return runs


def _holds_results(file: Path, named: bool) -> bool:
    """Whether to read a file. Only likely ones are opened, unless `named` by the user: runs also hold checkpoints."""
    if file.name in ("profile.json", "bench.json"):
        return True
    likely = file.parent.name == "eval" or file.name.startswith("suite-") or file.with_suffix(".jsonl").exists()
    if not (likely or named):
        return False
    return read_json(file).get("kind") in ("benchmark", "suite")


def _read_run(folder: Path, files: Iterable[Path]) -> RunFigures:
    run = RunFigures(folder, folder.name)
    recipe_file = folder / "recipe.yaml"
    if recipe_file.is_file():
        name = read_yaml(recipe_file).get("name") or run.recipe
        if not isinstance(name, str):
            raise UserError(f"{recipe_file}: field 'name' is {name!r:.60} and must be text; restore the file")
        run.recipe = name
    for file in files:
        result = read_json(file)
        if file.name == "profile.json":
            _read_profile(run, checked(result, Profile, file))
        elif file.name == "bench.json":
            _read_bench(run, checked(result, FlatBench, file))
        elif result.get("kind") == "suite":
            _read_scores(run, file, checked(result, SuiteResult, file, NEEDED_OF_SUITES if _complete(result) else ()))
        else:
            _read_scores(
                run, file, checked(result, BenchmarkResult, file, NEEDED_OF_PARTS if _complete(result) else ())
            )
    return run


def _complete(result: Mapping[str, object]) -> bool:
    return bool(result.get("complete"))


def _read_scores(run: RunFigures, file: Path, result: BenchmarkResult | SuiteResult) -> None:
    name = (result.get("recipe") or {}).get("name")
    run.recipe = str(name) if name else run.recipe
    if not result.get("complete"):
        run.unfinished.append(file.name)
        return
    if result["kind"] == "suite":
        run.suites[_suite_column(result)] = result["score"]
    parts = list(result["benchmarks"].values()) if result["kind"] == "suite" else [result]
    for part in parts:
        column = _column(part["title"], part["main"])
        run.scores[column] = part["main_score"]
        run.protocols[column] = protocol(part, result.get("metrics_version"))


def _column(title: str, main_score: str) -> str:
    return f"{title} ({main_score})"


def _suite_column(suite: SuiteResult | SweepSuite) -> str:
    return f"{suite['title']}: {suite['score_name']}"


def protocol(part: BenchmarkResult | SuitePart, metrics_version: str | None) -> str:
    """Samples, split, prompt and versions of one benchmark's result."""
    definition = part.get("benchmark_definition") or {}
    template = definition.get("prompt")
    prompt = {key: value for key, value in template.items() if value} if isinstance(template, Mapping) else {}
    words = ", ".join(f"{key} {value!r}" for key, value in prompt.items()) or "the bare question"
    return (
        f"{part['num_samples']} samples of {definition.get('split', '?')}, prompt: {words}, "
        f"benchmark version {definition.get('version', '?')}, metrics version {metrics_version or '?'}"
    )


def _read_profile(run: RunFigures, profile: Profile | SweepProfile) -> None:
    flops, reduction = _find(profile, "decoder_flops"), _find(profile, "decoder_flops_reduction")
    if flops is not None:
        run.costs[FLOPS] = flops / 1e9
    if reduction is not None:
        run.costs[FLOPS_SAVED] = 100 * reduction
    published = published_figure(run.recipe, "flops_reduction_pct")
    if published is not None:
        run.costs[FLOPS_PUBLISHED] = published


def _read_bench(run: RunFigures, bench: FlatBench) -> None:
    ratio = _find(bench, "prefill_time_ratio")  # a time on its own is no figure: it changes with the machine's load
    if ratio is not None:
        run.costs[PREFILL_SAVED] = 100 * (1 - ratio)


def _find(values: Mapping[str, object], key: str) -> float | None:
    """The number under `key`, or its median or total; None where there is none."""
    value = values.get(key)
    if isinstance(value, Mapping):
        value = value.get("median", value.get("total"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
