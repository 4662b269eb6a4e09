"""A report: table and plot from the result files of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxyv.report.figures import FLOPS, PREFILL_SAVED
from proxyv.report.markdown import replace_table
from proxyv.report.plots import Panel, Point, plot_scores
from proxyv.report.runs import find_runs
from proxyv.report.tables import Table, tabulate, to_markdown, write_csv


def make_report(paths: Sequence[str | Path], output_dir: str | Path) -> list[Path]:
    """Write `report.md`, `report.csv` and `report.png` from the runs below `paths`; returns their paths.

    Raises UserError where a path does not exist or none holds results.
    """
    table = tabulate(find_runs(paths))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return write_files(table, _panels(table), folder / "report")


def write_files(table: Table, panels: Sequence[Panel], stem: Path) -> list[Path]:
    """Write `<stem>.md`, the table with a link to the plot, `<stem>.csv` and `<stem>.png`; returns their paths."""
    markdown, numbers, plot = (stem.with_suffix(ending) for ending in (".md", ".csv", ".png"))
    markdown.write_text(to_markdown(table) + f"\n![Score against cost]({plot.name})\n", encoding="utf-8")
    write_csv(table, numbers)
    plot_scores(panels, plot)
    return [markdown, numbers, plot]


def write_into(document: str | Path, name: str, paths: Sequence[str | Path]) -> Path:
    """Update the table of that name in a document from the runs below `paths`; see `replace_table`."""
    return replace_table(document, name, to_markdown(tabulate(find_runs(paths))))


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
