"""A report: table and plot from the result files of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxyv.errors import UserError
from proxyv.report.figures import FLOPS, PREFILL_SAVED
from proxyv.report.markdown import replace_table
from proxyv.report.paper_tables import paper_tables
from proxyv.report.plots import Panel, Point, plot_scores
from proxyv.report.runs import find_runs
from proxyv.report.tables import Table, tabulate, to_latex, to_markdown, write_csv


def make_report(paths: Sequence[str | Path], output_dir: str | Path) -> list[Path]:
    """Write `report.md`, `.csv`, `.tex` and `.png` from the runs below `paths`, and `.md`, `.csv` and `.tex` of each of
    the paper's tables that they have benchmarks of (`score_fine` …); returns their paths.

    Raises UserError where a path does not exist, none holds results, or scores contradict each other.
    """
    runs = find_runs(paths)
    table = tabulate(runs)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    written = write_files(table, _panels(table), folder / "report")
    for name, of_paper in paper_tables(runs).items():
        written += write_table(of_paper, folder / name)
    return written


def write_files(table: Table, panels: Sequence[Panel], stem: Path) -> list[Path]:
    """Write a table's files as `write_table` does, with a link to the plot, and `<stem>.png`; returns their paths."""
    plot = stem.with_suffix(".png")
    written = write_table(table, stem, below=f"\n![Score against cost]({plot.name})\n")
    plot_scores(panels, plot)
    return [*written, plot]


def write_table(table: Table, stem: Path, below: str = "") -> list[Path]:
    """Write `<stem>.md`, with a text `below` the table, `<stem>.csv` and `<stem>.tex`; returns their paths."""
    markdown, numbers, latex = (stem.with_suffix(ending) for ending in (".md", ".csv", ".tex"))
    markdown.write_text(to_markdown(table) + below, encoding="utf-8")
    write_csv(table, numbers)
    latex.write_text(to_latex(table), encoding="utf-8")
    return [markdown, numbers, latex]


def write_into(document: str | Path, name: str, paths: Sequence[str | Path], paper_table: str | None = None) -> Path:
    """Update the table of that name in a document from the runs below `paths`; see `replace_table`.

    paper_table: one of the paper's tables in place of the report's.

    Raises UserError as `make_report`, and where no run has a benchmark of the paper's table.
    """
    runs = find_runs(paths)
    if paper_table is None:
        return replace_table(document, name, to_markdown(tabulate(runs)))
    tables = paper_tables(runs)
    if paper_table not in tables:
        raise UserError(f"{', '.join(map(str, paths))}: no whole benchmark of the table '{paper_table}'; evaluate them")
    return replace_table(document, name, to_markdown(tables[paper_table]))


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
