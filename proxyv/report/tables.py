"""Runs → a table: one row a recipe, mean ± sample standard deviation over its runs (several seeds). What no file holds
is shown as "–"."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proxyv.report.columns import ordered, separate
from proxyv.report.figures import COSTS, FLOPS, FLOPS_PUBLISHED, FLOPS_SAVED, LOSS, TOTAL_SAVED, RunFigures
from proxyv.report.latex import latex_table
from proxyv.report.markdown import ABSENT, table_lines, with_notes
from proxyv.report.means import MeanOverRuns


@dataclass(frozen=True)
class RecipeRow:
    """One recipe's figures over its runs."""

    recipe: str
    runs: int
    figures: Mapping[str, MeanOverRuns]


@dataclass(frozen=True)
class Table:
    """Rows by recipe; columns in order, of which `suites` are suite scores; what a reader must know besides.

    decimals: of columns that are shown with others than the usual."""

    rows: list[RecipeRow]
    columns: list[str]
    suites: list[str]
    notes: list[str]
    decimals: Mapping[str, int] = field(default_factory=dict)


def tabulate(runs: Sequence[RunFigures]) -> Table:
    """Group runs by recipe, in order of first appearance. Scores that were measured in different ways get columns of
    their own."""
    runs, notes = separate(runs)
    groups: dict[str, list[RunFigures]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    suites = ordered(run.suites for run in runs)
    present = ordered(run.costs for run in runs)
    costs = [name for name in COSTS if name in present]
    columns = [*ordered(run.scores for run in runs), *suites, *costs]
    rows = [
        RecipeRow(recipe, sum(run.failed is None for run in group), _figures(group, columns))
        for recipe, group in groups.items()
    ]
    return Table(rows, columns, suites, [*notes, *_notes(runs)])


def _figures(runs: Sequence[RunFigures], columns: Sequence[str]) -> dict[str, MeanOverRuns]:
    figures = {}
    for column in columns:
        values = [run.figures[column] for run in runs if column in run.figures]
        if values:
            figures[column] = MeanOverRuns.of(values)
    return figures


def _notes(runs: Sequence[RunFigures]) -> list[str]:
    """What is left out."""
    notes = [f"{run.folder.name}: {name} is unfinished and left out." for run in runs for name in run.unfinished]
    return notes + [f"{run.recipe}, {run.folder}: failed: {run.failed}" for run in runs if run.failed]


def to_markdown(table: Table) -> str:
    """The table in Markdown, notes below it."""
    return with_notes(table_lines(*_texts(table)), _all_notes(table))


def to_latex(table: Table) -> str:
    """The table in LaTeX, notes as comments below it."""
    return latex_table(*_texts(table), _all_notes(table))


def _texts(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    rows = [[row.recipe, str(row.runs), *(_cell(table, row, column) for column in table.columns)] for row in table.rows]
    return ["recipe", "runs", *table.columns], rows


def _all_notes(table: Table) -> list[str]:
    return [*(["± is the standard deviation over runs."] if any(r.runs > 1 for r in table.rows) else []), *table.notes]


def _cell(table: Table, row: RecipeRow, column: str) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return ABSENT
    usual = 3 if column == LOSS else 2 if column == FLOPS and abs(figure.mean) < 100 else 1
    decimals = table.decimals.get(column, usual)
    # Counted, not measured: no spread to speak of.
    counted = column in (FLOPS, FLOPS_SAVED, FLOPS_PUBLISHED, TOTAL_SAVED) and figure.spread == 0
    return f"{figure.mean:.{decimals}f}" if counted else figure.text(decimals)


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
