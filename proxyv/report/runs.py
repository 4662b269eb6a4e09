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
from pathlib import Path

from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.report.figures import (
    FLOPS,
    FLOPS_PUBLISHED,
    FLOPS_SAVED,
    LOSS,
    PREFILL_SAVED,
    TOTAL_SAVED,
    BenchmarkFigures,
    RunFigures,
)
from proxyv.report.published import published_figure
from proxyv.report.score_files import add_benchmark, add_scores, add_suite
from proxyv.results.agreement import check_seeds
from proxyv.results.bench import FlatBench
from proxyv.results.check import checked
from proxyv.results.dry_run import is_dry_run
from proxyv.results.profile import Profile
from proxyv.results.sweep import SweepProfile, SweepResult
from proxyv.yaml_files import read_yaml

SWEEP = "sweep.json"
NEEDED_OF_SWEEPS = (
    "recipes",
    *(f"recipes.*.{name}" for name in ("profile", "runs", "summary", "failed")),
    *(f"recipes.*.runs.*.{name}" for name in ("training", "suite", "benchmarks")),
    *(f"recipes.*.runs.*.benchmarks.*.{name}" for name in ("title", "main", "main_score", "protocol")),
    *(f"recipes.*.runs.*.suite.{name}" for name in ("title", "score_name", "score")),
    "recipes.*.runs.*.training.loss",
)


def find_runs(paths: Sequence[str | Path]) -> list[RunFigures]:
    """As `runs_below`. Raises UserError where there are none, too."""
    runs = runs_below(paths)
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no results here; run `proxyv eval` first")
    return runs


def runs_below(paths: Sequence[str | Path]) -> list[RunFigures]:
    """All runs below the folders, or behind the single files, of `paths`; a sweep's folder means its result.

    Raises UserError where a path does not exist, a file cannot be read, or its scores contradict each other.
    """
    files: dict[Path, set[Path]] = {}
    runs: list[RunFigures] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give run folders or result files")
        sweep = path if path.name == SWEEP else path / SWEEP
        if sweep.is_file():
            runs += read_sweep(checked(read_json(sweep), SweepResult, sweep, NEEDED_OF_SWEEPS), sweep)
            continue
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if _holds_results(file, named=path.is_file()):
                folder = file.parent.parent if file.parent.name == "eval" else file.parent
                files.setdefault(folder.resolve(), set()).add(file.resolve())
    return runs + [_read_run(folder, sorted(files[folder])) for folder in sorted(files)]


def read_sweep(results: SweepResult, file: Path = Path(SWEEP)) -> list[RunFigures]:
    """A run for each recipe and seed of a sweep; one for a recipe that was only counted; one for each failure.

    Raises UserError, naming `file`, where its figures contradict each other.
    """
    runs = []
    for name, recipe in results["recipes"].items():
        check_seeds(recipe, file, name)
        whole = RunFigures(Path(name), name)  # the only one where the recipe was only counted
        _read_profile(whole, recipe["profile"])
        saved = _find(recipe["profile"], "total_flops_reduction")
        if saved is not None:
            whole.costs[TOTAL_SAVED] = 100 * saved
        seeds = []
        for seed, result in recipe["runs"].items():
            run = RunFigures(Path(f"seed {seed}"), name, costs=dict(whole.costs))
            for benchmark, part in result["benchmarks"].items():
                figures = BenchmarkFigures(part["main_score"], {}, part["protocol"], whole=True)
                add_benchmark(run, benchmark, part, figures, file)
            if result["suite"]:
                add_suite(run, result["suite"])
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
    result = read_json(file)
    return result.get("kind") in ("benchmark", "suite") and not is_dry_run(result)


def _read_run(folder: Path, files: Iterable[Path]) -> RunFigures:
    run = RunFigures(folder, folder.name)
    recipe_file = folder / "recipe.yaml"
    if recipe_file.is_file():
        name = read_yaml(recipe_file).get("name") or run.recipe
        if not isinstance(name, str):
            raise UserError(f"{recipe_file}: field 'name' is {name!r:.60} and must be text; restore the file")
        run.recipe = name
    for file in files:
        if file.name == "profile.json":
            _read_profile(run, checked(read_json(file), Profile, file))
        elif file.name == "bench.json":
            _read_bench(run, checked(read_json(file), FlatBench, file))
        else:
            add_scores(run, file)
    return run


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
