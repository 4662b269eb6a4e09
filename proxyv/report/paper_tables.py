"""The paper's result tables (arXiv 2505.15816): our runs on its benchmarks, the published values beside them.

A table has a row for each recipe that has one of its benchmarks. Published values come from eval/published.json, by
the recipe's name. Only whole benchmarks enter: the first samples of one (`--limit`) give nothing to hold beside the
paper's figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxyv.report.columns import ordered
from proxyv.report.figures import RunFigures
from proxyv.report.means import MeanOverRuns
from proxyv.report.published import published, published_scores
from proxyv.report.tables import Table, tabulate


@dataclass(frozen=True)
class PaperColumn:
    """One benchmark of a table."""

    head: str
    benchmark: str  # of eval/benchmarks
    key: str | None = None  # of the published value; None: the paper has none
    score: str | None = None  # shown as it is, between 0 and 1; None: the main score as tables show it


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables. `mean`: head and published key of the mean of its columns."""

    name: str
    section: str  # of eval/published.json
    columns: tuple[PaperColumn, ...]
    mean: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


_SPLITS = {
    "refcoco_testA": "RefCOCO testA",
    "refcoco_testB": "RefCOCO testB",
    "refcoco_plus_val": "RefCOCO+ val",
    "refcoco_plus_testA": "RefCOCO+ testA",
    "refcoco_plus_testB": "RefCOCO+ testB",
    "refcocog_val": "RefCOCOg val",
    "refcocog_test": "RefCOCOg test",
}
_REFCOCO = PaperColumn("RefCOCO val", "refcoco_val", "refcoco")
_REFCOCO_NOTE = "RefCOCO val: the paper says neither which split nor which threshold its value is of."

PAPER_TABLES = (
    PaperTable(
        "score_fine",
        "fine",
        (
            PaperColumn("DocVQA", "docvqa_val", "docvqa"),
            PaperColumn("ChartQA", "chartqa", "chartqa"),
            PaperColumn("InfoVQA", "infovqa_val", "infovqa"),
            PaperColumn("TextVQA", "textvqa_val", "textvqa"),
            PaperColumn("OCRBench/10", "ocrbench", "ocrbench"),
        ),
        mean=("Score_fine", "score_fine"),
    ),
    PaperTable(
        "grounding",
        "document_parsing_and_grounding",
        (
            _REFCOCO,
            *(PaperColumn(head, benchmark) for benchmark, head in _SPLITS.items()),
        ),
        notes=(_REFCOCO_NOTE,),
    ),
    PaperTable(
        "general",
        "general",
        (
            PaperColumn("MMBench en dev", "mmbench_en_dev", "mmbench_en_dev"),
            PaperColumn("SEED image", "seedbench_image", "seed_image"),
            _REFCOCO,
            PaperColumn("MMStar", "mmstar", "mmstar"),
            PaperColumn("GQA", "gqa", "gqa"),
            PaperColumn("MME perception", "mme", "mme_perception"),
            PaperColumn("MMMU val", "mmmu_val", "mmmu_val"),
            PaperColumn("POPE", "pope", "pope"),
            PaperColumn("ScienceQA image", "scienceqa_img", "scienceqa_img"),
            PaperColumn("AI2D", "ai2d", "ai2d"),
            PaperColumn("RealWorldQA", "realworldqa", "realworldqa"),
        ),
        notes=(_REFCOCO_NOTE,),
    ),
    PaperTable(
        "parsing",
        "document_parsing_and_grounding",
        (
            PaperColumn("BLEU", "ccpdf_parsing", "docparse_bleu", score="bleu"),
            PaperColumn("edit distance", "ccpdf_parsing", "docparse_ed", score="edit_distance"),
        ),
        notes=("Edit distance: lower is better. The paper does not define either measure.",),
    ),
)
PUBLISHED = " published"  # behind a column's head


def paper_tables(runs: Sequence[RunFigures]) -> dict[str, Table]:
    """The paper's tables by name, of the runs that have any of their benchmarks; tables without a row are left out."""
    found = {table.name: _tabulate(table, runs) for table in PAPER_TABLES}
    return {name: table for name, table in found.items() if table.rows}


def _tabulate(paper: PaperTable, runs: Sequence[RunFigures]) -> Table:
    """One table, published values in columns behind ours where a row has any."""
    cut = dict.fromkeys(note for run in runs for note in _left_out(paper, run))
    ours = tabulate([own for own in (_figures(paper, run) for run in runs) if own.scores])
    rows = [replace(row, figures={**row.figures, **_published_figures(paper, row.recipe)}) for row in ours.rows]
    present = ordered(row.figures for row in rows)
    columns: list[str] = []
    decimals: dict[str, int] = {}
    shares = {column.head for column in paper.columns if column.score is not None}
    for head in [*(column.head for column in paper.columns), *(paper.mean or ())[:1]]:
        shown = [name for name in ours.columns if name.split(" #")[0] == head]
        shown += [name for name in [head + PUBLISHED] if shown and name in present]
        columns += shown
        decimals |= dict.fromkeys(shown, 4 if head in shares else 2)
    told = [f"Published: {published()['source']}."] if any(name.endswith(PUBLISHED) for name in columns) else []
    return Table(rows, columns, ours.suites, [*ours.notes, *cut, *told, *paper.notes], decimals)


def _figures(paper: PaperTable, run: RunFigures) -> RunFigures:
    """The run with the table's columns alone, and their mean where it has them all."""
    own = RunFigures(run.folder, run.recipe)
    for column in paper.columns:
        part = run.benchmarks.get(column.benchmark)
        value = None if part is None else part.main_score if column.score is None else part.scores.get(column.score)
        if part is not None and part.whole and value is not None:
            own.scores[column.head], own.protocols[column.head] = value, part.protocol
    if paper.mean is not None and len(own.scores) == len(paper.columns):
        own.suites[paper.mean[0]] = MeanOverRuns.of(list(own.scores.values())).mean
        own.protocols[paper.mean[0]] = "; ".join(f"{head}: {how}" for head, how in own.protocols.items())
    return own


def _left_out(paper: PaperTable, run: RunFigures) -> list[str]:
    """What a run has only a part of, in words."""
    parts = {column.benchmark: run.benchmarks.get(column.benchmark) for column in paper.columns}
    return [
        f"{run.recipe}: {name} is left out: {part.protocol.split(',')[0]} are not all (`--limit`)."
        for name, part in parts.items()
        if part is not None and not part.whole
    ]


def _published_figures(paper: PaperTable, recipe: str) -> dict[str, MeanOverRuns]:
    """The recipe's published values, by column."""
    values = published_scores(recipe, paper.section)
    keys = {column.head: column.key for column in paper.columns} | dict([paper.mean] if paper.mean else [])
    return {head + PUBLISHED: MeanOverRuns.of([values[key]]) for head, key in keys.items() if key in values}
