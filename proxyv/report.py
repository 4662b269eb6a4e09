"""Tables and a plot from result files: what each recipe scores, and what it costs.

A run is a folder that holds any of

    eval/<benchmark>.json, eval/suite-<suite>.json    written by proxyv/evaluation
    profile.json                                      decoder_flops, decoder_flops_reduction, …
    bench.json                                        prefill_time_ratio, …

The runs of a sweep are read from its own result file, sweep.json (proxyv/sweep). Runs of one recipe name (several
seeds) make one row: mean ± sample standard deviation. What no file tells is shown as "–". No figure is ever typed by
hand.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyv.config import read_yaml
from proxyv.errors import UserError
from proxyv.evaluation.plots import Figure, Panel, Point, plot_scores
from proxyv.files import read_json
from proxyv.published import published_figure

ABSENT = "–"
FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED = "decoder GFLOPs", "FLOPs reduction %", "published FLOPs reduction %"
TOTAL_SAVED, PREFILL_SAVED, LOSS = "total FLOPs reduction %", "prefill time reduction %", "final training loss"
COSTS = (FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED, TOTAL_SAVED, PREFILL_SAVED, LOSS)
SWEEP = "sweep.json"


@dataclass
class Run:
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


@dataclass(frozen=True)
class Row:
    """One recipe's figures over its runs."""

    recipe: str
    runs: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Table:
    """Rows by recipe; columns in order, of which `suites` are suite scores; what a reader must know besides."""

    rows: list[Row]
    columns: list[str]
    suites: list[str]
    notes: list[str]


def make_report(paths: Sequence[str | Path], output_dir: str | Path) -> list[Path]:
    """Write `report.md`, `report.csv` and `report.png` from the runs below `paths`; returns their paths.

    Raises UserError where a path does not exist or none holds results.
    """
    table = tabulate(find_runs(paths))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, numbers, picture = (folder / f"report.{ending}" for ending in ("md", "csv", "png"))
    markdown.write_text(to_markdown(table) + f"\n![Score against cost]({picture.name})\n", encoding="utf-8")
    write_csv(table, numbers)
    plot_scores(_panels(table), picture)
    return [markdown, numbers, picture]


def write_into(document: str | Path, name: str, paths: Sequence[str | Path]) -> Path:
    """Renew the table of that name in a document from the runs below `paths`; see `replace_table`."""
    return replace_table(document, name, to_markdown(tabulate(find_runs(paths))))


def replace_table(document: str | Path, name: str, table: str) -> Path:
    """Replace what stands in a document between `<!-- table: NAME … -->` and `<!-- end of table -->`.

    Raises UserError where the document has no such place.
    """
    document = Path(document)
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    place = re.compile(rf"(<!-- table: {re.escape(name)} .*?-->\n).*?(<!-- end of table -->)", re.DOTALL)
    if not place.search(text):
        raise UserError(f"{document}: has no place '<!-- table: {name} … -->' … '<!-- end of table -->'; add one")
    document.write_text(place.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text), encoding="utf-8")
    return document


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """All runs below the folders, or behind the single files, of `paths`; a sweep's folder stands for its result."""
    files: dict[Path, set[Path]] = {}
    runs: list[Run] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give run folders or result files")
        sweep = path if path.name == SWEEP else path / SWEEP
        if sweep.is_file():
            runs += read_sweep(read_json(sweep))
            continue
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if _holds_results(file, named=path.is_file()):
                folder = file.parent.parent if file.parent.name == "eval" else file.parent
                files.setdefault(folder.resolve(), set()).add(file.resolve())
    if not files and not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no results here; run `proxyv eval` first")
    return runs + [_read_run(folder, sorted(files[folder])) for folder in sorted(files)]


def read_sweep(results: Mapping[str, Any]) -> list[Run]:
    """A run for each recipe and seed in the content of a sweep's result file; see proxyv/sweep/results.py."""
    runs = []
    for name, recipe in results["recipes"].items():
        whole = Run(Path(name), name)  # stands alone where the recipe was only counted
        _read_profile(whole, recipe["profile"])
        saved = _find(recipe["profile"], "total_flops_reduction")
        if saved is not None:
            whole.costs[TOTAL_SAVED] = 100 * saved
        seeds = []
        for seed, result in recipe["runs"].items():
            run = Run(Path(f"seed {seed}"), name, costs=dict(whole.costs))
            for part in result["benchmarks"].values():
                run.scores[_column(part)] = part["main_score"]
                run.protocols[_column(part)] = part["protocol"]
            if result["suite"]:
                run.suites[_suite_column(result["suite"])] = result["suite"]["score"]
            if result["training"]:
                run.costs[LOSS] = result["training"]["loss"]
            seeds.append(run)
        seeds += [Run(Path(what), name, failed=message) for what, message in recipe["failed"].items()]
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


def _read_run(folder: Path, files: Iterable[Path]) -> Run:
    run = Run(folder, folder.name)
    recipe_file = folder / "recipe.yaml"
    if recipe_file.is_file():
        run.recipe = read_yaml(recipe_file).get("name") or run.recipe
    for file in files:
        result = read_json(file)
        if file.name == "profile.json":
            _read_profile(run, result)
        elif file.name == "bench.json":
            _read_bench(run, result)
        else:
            _read_scores(run, file, result)
    return run


def _read_scores(run: Run, file: Path, result: Mapping[str, Any]) -> None:
    run.recipe = (result.get("recipe") or {}).get("name") or run.recipe
    if not result.get("complete"):
        run.unfinished.append(file.name)
        return
    parts = {result["benchmark"]: result} if result["kind"] == "benchmark" else result["benchmarks"]
    for part in parts.values():
        run.scores[_column(part)] = part["main_score"]
        run.protocols[_column(part)] = protocol(part, result.get("metrics_version"))
    if result["kind"] == "suite":
        run.suites[_suite_column(result)] = result["score"]


def _column(benchmark: Mapping[str, Any]) -> str:
    return f"{benchmark['title']} ({benchmark['main']})"


def _suite_column(suite: Mapping[str, Any]) -> str:
    return f"{suite['title']}: {suite['score_name']}"


def protocol(part: Mapping[str, Any], metrics_version: str | None) -> str:
    """Samples, split, prompt and versions of one benchmark's result."""
    definition = part.get("benchmark_definition") or {}
    prompt = {key: value for key, value in (definition.get("prompt") or {}).items() if value}
    told = ", ".join(f"{key} {value!r}" for key, value in prompt.items()) or "the bare question"
    return (
        f"{part['num_samples']} samples of {definition.get('split', '?')}, prompt: {told}, "
        f"benchmark version {definition.get('version', '?')}, metrics version {metrics_version or '?'}"
    )


def _read_profile(run: Run, profile: Mapping[str, Any]) -> None:
    flops, reduction = _find(profile, "decoder_flops"), _find(profile, "decoder_flops_reduction")
    if flops is not None:
        run.costs[FLOPS] = flops / 1e9
    if reduction is not None:
        run.costs[FLOPS_SAVED] = 100 * reduction
    published = published_figure(run.recipe, "flops_reduction_pct")
    if published is not None:
        run.costs[FLOPS_PUBLISHED] = published


def _read_bench(run: Run, bench: Mapping[str, Any]) -> None:
    ratio = _find(bench, "prefill_time_ratio")  # a time on its own is no figure: it changes with the machine's mood
    if ratio is not None:
        run.costs[PREFILL_SAVED] = 100 * (1 - ratio)


def _find(values: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, or its median or total; None where there is none."""
    value = values.get(key)
    if isinstance(value, Mapping):
        value = value.get("median", value.get("total"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def tabulate(runs: Sequence[Run]) -> Table:
    """Group runs by recipe, in order of first appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    suites = _ordered(run.suites for run in runs)
    present = _ordered(run.costs for run in runs)
    costs = [name for name in COSTS if name in present]
    columns = [*_ordered(run.scores for run in runs), *suites, *costs]
    rows = [
        Row(recipe, sum(run.failed is None for run in group), _figures(group, columns))
        for recipe, group in groups.items()
    ]
    return Table(rows, columns, suites, _notes(runs))


def _ordered(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _figures(runs: Sequence[Run], columns: Sequence[str]) -> dict[str, Figure]:
    figures = {}
    for column in columns:
        values = [run.figures[column] for run in runs if column in run.figures]
        if values:
            figures[column] = Figure.of(values)
    return figures


def _notes(runs: Sequence[Run]) -> list[str]:
    """How each score was measured, and what would make a comparison unfair."""
    notes = []
    for column in _ordered(run.protocols for run in runs):
        told = _ordered({run.protocols[column]: None} for run in runs if column in run.protocols)
        warning = "runs differ, their scores are not comparable: " if len(told) > 1 else ""
        notes.append(f"{column}: {warning}{' / '.join(told)}.")
    notes += [f"{run.folder.name}: {name} is unfinished and left out." for run in runs for name in run.unfinished]
    notes += [f"{run.recipe}, {run.folder}: failed: {run.failed}" for run in runs if run.failed]
    return notes


def to_markdown(table: Table) -> str:
    """The table in Markdown, notes below it."""
    head = ["recipe", "runs", *table.columns]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in table.rows:
        cells = [_cell(row, column) for column in table.columns]
        lines.append(_line([row.recipe, str(row.runs), *cells]))
    spread = ["± is the standard deviation over runs."] if any(row.runs > 1 for row in table.rows) else []
    notes = [f"- {note}" for note in [*spread, *table.notes]]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cell(row: Row, column: str) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return ABSENT
    decimals = 3 if column == LOSS else 2 if column == FLOPS and abs(figure.mean) < 100 else 1
    # Counted, not measured: no spread to speak of.
    counted = column in (FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED, TOTAL_SAVED) and figure.spread == 0
    return f"{figure.mean:.{decimals}f}" if counted else figure.text(decimals)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_csv(table: Table, path: Path) -> None:
    """One line per recipe; each column with its unrounded mean, spread and number of runs; absent ones, and the spread
    of a single run, empty."""
    parts = ("mean", "spread", "runs")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["recipe", *[f"{column} {part}" for column in table.columns for part in parts]])
        for row in table.rows:
            figures = [row.figures.get(column) for column in table.columns]
            cells = [[f.mean, f.spread if f.runs > 1 else "", f.runs] if f else ["", "", ""] for f in figures]
            writer.writerow([row.recipe, *[value for cell in cells for value in cell]])


def _panels(table: Table) -> list[Panel]:
    """The plot: the first suite's score (else the first column's) against decoder FLOPs and prefill time."""
    score = next(iter([*table.suites, *table.columns]), "score")
    panels = []
    saved = "prefill time saved against its baseline in the same run (%)"
    for cost, axis in ((FLOPS, "decoder FLOPs of the prefill (GFLOP)"), (PREFILL_SAVED, saved)):
        rows = [row for row in table.rows if score in row.figures and cost in row.figures]
        points = [Point(row.recipe, row.figures[cost], row.figures[score]) for row in rows]
        panels.append(Panel(axis, score, points))
    return panels
