"""Runs → a table: one row a recipe, mean ± sample standard deviation over its runs (several seeds). What no file holds
is shown as "–"."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyv.report.markdown import ABSENT, table_lines, with_notes
from proxyv.report.means import MeanOverRuns
from proxyv.report.runs import COSTS, FLOPS, FLOPS_PUBLISHED, FLOPS_SAVED, LOSS, TOTAL_SAVED, RunFigures


@dataclass(frozen=True)
class RecipeRow:
    """One recipe's figures over its runs."""

    recipe: str
    runs: int
    figures: Mapping[str, MeanOverRuns]


@dataclass(frozen=True)
class Table:
    """Rows by recipe; columns in order, of which `suites` are suite scores; what a reader must know besides."""

    rows: list[RecipeRow]
    columns: list[str]
    suites: list[str]
    notes: list[str]


def tabulate(runs: Sequence[RunFigures]) -> Table:
    """Group runs by recipe, in order of first appearance."""
    groups: dict[str, list[RunFigures]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    suites = _ordered(run.suites for run in runs)
    present = _ordered(run.costs for run in runs)
    costs = [name for name in COSTS if name in present]
    columns = [*_ordered(run.scores for run in runs), *suites, *costs]
    rows = [
        RecipeRow(recipe, sum(run.failed is None for run in group), _figures(group, columns))
        for recipe, group in groups.items()
    ]
    return Table(rows, columns, suites, _notes(runs))


def _ordered(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _figures(runs: Sequence[RunFigures], columns: Sequence[str]) -> dict[str, MeanOverRuns]:
    figures = {}
    for column in columns:
        values = [run.figures[column] for run in runs if column in run.figures]
        if values:
            figures[column] = MeanOverRuns.of(values)
    return figures


def _notes(runs: Sequence[RunFigures]) -> list[str]:
    """How each score was measured, and what would make a comparison unfair."""
    notes = []
    for column in _ordered(run.protocols for run in runs):
        protocols = _ordered({run.protocols[column]: None} for run in runs if column in run.protocols)
        warning = "runs differ, their scores are not comparable: " if len(protocols) > 1 else ""
        notes.append(f"{column}: {warning}{' / '.join(protocols)}.")
    notes += [f"{run.folder.name}: {name} is unfinished and left out." for run in runs for name in run.unfinished]
    notes += [f"{run.recipe}, {run.folder}: failed: {run.failed}" for run in runs if run.failed]
    return notes


def to_markdown(table: Table) -> str:
    """The table in Markdown, notes below it."""
    head = ["recipe", "runs", *table.columns]
    rows = [[row.recipe, str(row.runs), *(_cell(row, column) for column in table.columns)] for row in table.rows]
    spread = ["± is the standard deviation over runs."] if any(row.runs > 1 for row in table.rows) else []
    return with_notes(table_lines(head, rows), [*spread, *table.notes])


def _cell(row: RecipeRow, column: str) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return ABSENT
    decimals = 3 if column == LOSS else 2 if column == FLOPS and abs(figure.mean) < 100 else 1
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
