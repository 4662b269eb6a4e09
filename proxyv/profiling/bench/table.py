"""Markdown tables of timing runs, from their results alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from proxyv.errors import UserError
from proxyv.profiling.bench.cells import Setting
from proxyv.profiling.bench.notes import median_text, notes_on_run, significant
from proxyv.profiling.bench.result import RATIOS, Measured, setting_of, time_ratio
from proxyv.profiling.bench.timing import TIMES
from proxyv.report.markdown import ABSENT, table_lines, with_notes
from proxyv.report.published import PUBLISHED, published_figure
from proxyv.results.bench import BenchResult, CellResult, MedianAndIqr, RatioInterval

SETTINGS = {"attention": "attention", "batch_size": "batch", "crops": "crops"}  # field of a Setting → its column
PAPER_SAMPLE = (1, 5, 50)  # batch, crops, text tokens


class Base(NamedTuple):
    """What ratios are to: a model of a run."""

    result: BenchResult
    label: str


class ShownCell(NamedTuple):
    """A row of the tables: one model at one setting, or all of them where they fail for the same reason."""

    label: str
    setting: Setting
    cell: CellResult
    ratios: dict[str, RatioInterval] | None  # to the base; None: there is none, or this is the base
    published: float | None  # the prefill time that the method saves in the paper, in percent


def bench_tables(results: Sequence[BenchResult], against: str | None = None) -> str:
    """The tables of one run or more, run after run.

    Args:
        against: the model that ratios are to; None: each run's own baseline.

    Raises UserError where a ratio would be to a model of another run, or of none.
    """
    return "\n".join(_tables_of_run(result, _base(result, results, against)) for result in results)


def _base(own: BenchResult, results: Sequence[BenchResult], against: str | None) -> Base | None:
    if against is None:
        return None if own["baseline"] is None else Base(own, own["baseline"])
    for result in (own, *results):
        if against in result["models"]:
            return Base(result, against)
    raise UserError(f"compare: no run has '{against}'; use one of {', '.join(own['models'])}")


def _tables_of_run(result: BenchResult, base: Base | None) -> str:
    cells = _shown_cells(result, base)
    settings = [cell.setting._asdict() for cell in cells]
    varying = [name for name in SETTINGS if len({setting[name] for setting in settings}) > 1]
    tables = RunTables(cells, varying, None if base is None else base.label)
    published = any(cell.published is not None for cell in cells)
    shown = [tables.times(), tables.parts(), *([tables.saved()] if published and base is not None else [])]
    fixed = {SETTINGS[name]: value for name, value in settings[0].items() if name not in varying}
    notes = notes_on_run(result, fixed, tables.base, published)
    *first, last = shown
    return "\n".join(["\n".join(lines) + "\n" for lines in first] + [with_notes(last, notes)])


def _shown_cells(result: BenchResult, base: Base | None) -> list[ShownCell]:
    """Setting by setting, the base first."""
    shown: list[ShownCell] = []
    for setting, group in groupby(result["cells"], key=setting_of):
        cells = sorted(group, key=lambda cell: base is None or cell["label"] != base.label)
        if len(cells) > 1 and cells[0]["failed"] is not None and len({cell["failed"] for cell in cells}) == 1:
            shown.append(ShownCell("all models", setting, cells[0], ratios=None, published=None))
            continue
        for cell in cells:
            ratios = _ratios_to_base(result, cell, base)
            shown.append(ShownCell(cell["label"], setting, cell, ratios, _published(result, cell)))
    return shown


def _ratios_to_base(result: BenchResult, cell: CellResult, base: Base | None) -> dict[str, RatioInterval] | None:
    """Ratios of a cell to the base at the same setting; None where one of both has no figures, or is the other."""
    if base is None or cell["failed"] is not None or cell["label"] == base.label:
        return None
    at = setting_of(cell)
    one, other = Measured(result, cell["label"], at), Measured(base.result, base.label, at)
    if base.result is result and other.failed:
        return None
    return {figure: time_ratio(one, other, figure) for figure in RATIOS}


def _published(result: BenchResult, cell: CellResult) -> float | None:
    """The paper's figure for a cell that has the paper's sample."""
    sample = (cell["batch_size"], cell["crops"], result["settings"]["text_tokens"])
    if sample != PAPER_SAMPLE or not PUBLISHED.is_file():  # no file: not a checkout
        return None
    return published_figure(result["models"][cell["label"]]["recipe"], "time_reduction_pct")


@dataclass(frozen=True)
class RunTables:
    """The tables of one run, each as its lines.

    varying: the settings in which cells differ; they have columns.
    base: the label of the model that ratios are to; None: no ratios.
    """

    cells: Sequence[ShownCell]
    varying: Sequence[str]
    base: str | None

    def times(self) -> list[str]:
        """How long a pass takes, and its peak memory."""
        heads = [*self._with_ratio_heads("prefill ms", "decode ms/token", "end to end ms"), "peak MB"]
        return self._table(heads, [(cell, self._times_row(cell, len(heads))) for cell in self.cells])

    def parts(self) -> list[str]:
        """Where the time of a prefill goes, and the rates."""
        heads = [
            *("tower ms", "projector ms", "selection ms", *self._with_ratio_heads("LLM ms"), "other ms"),
            *("prompt tokens/s", "new tokens/s", "TFLOP/s", "% of matrix rate"),
        ]
        measured = [cell for cell in self.cells if cell.cell["failed"] is None]
        return self._table(heads, [(cell, self._parts_row(cell)) for cell in measured])

    def saved(self) -> list[str]:
        """The time saved against the base, beside the paper's figure; all in percent."""
        heads = ["prefill time saved %", "LLM time saved %", "published %"]
        rows = []
        for cell in self.cells:
            if cell.ratios is not None:
                saved = [f"{100 * (1 - cell.ratios[name]['median']):.1f}" for name in ("prefill_ms", "llm_ms")]
                rows.append((cell, [*saved, ABSENT if cell.published is None else f"{cell.published:.0f}"]))
        return self._table(heads, rows)

    def _table(self, heads: Sequence[str], rows: Sequence[tuple[ShownCell, list[str]]]) -> list[str]:
        """A table that says in front which model a row is, and at which setting."""
        shown = [
            [cell.label, *(str(getattr(cell.setting, name)) for name in self.varying), *figures]
            for cell, figures in rows
        ]
        return table_lines(["model", *(SETTINGS[name] for name in self.varying), *heads], shown)

    def _times_row(self, shown: ShownCell, width: int) -> list[str]:
        cell = shown.cell
        if cell["failed"] is not None:
            return [f"not measured: {cell['failed']}", *[ABSENT] * (width - 1)]
        peak = cell["peak_memory_mb"]
        times = [text for name in TIMES for text in self._with_ratio(cell[name], shown, name)]
        return [*times, ABSENT if peak is None else significant(peak)]

    def _parts_row(self, shown: ShownCell) -> list[str]:
        cell = shown.cell
        parts, share = cell["parts"], cell["share_of_matrix_rate"]
        return [
            *(median_text(parts[name]) for name in ("tower_ms", "projector_ms", "selection_ms")),
            *self._with_ratio(parts["llm_ms"], shown, "llm_ms"),
            median_text(parts["other_ms"]),
            f"{cell['prefill_tokens_per_second']:,.0f}",
            f"{cell['decode_tokens_per_second']:,.0f}",
            significant(cell["prefill_tflops_per_second"]),
            ABSENT if share is None else f"{100 * share:.1f}",
        ]

    def _with_ratio_heads(self, *heads: str) -> list[str]:
        """Heads and, where there is a base, behind each the head of its ratio."""
        return [column for head in heads for column in ([head] if self.base is None else [head, f"× {self.base}"])]

    def _with_ratio(self, time: MedianAndIqr, shown: ShownCell, name: str) -> list[str]:
        """A time and, where there is a base, its ratio."""
        if self.base is None:
            return [median_text(time)]
        if shown.ratios is None:
            return [median_text(time), ABSENT]
        ratio = shown.ratios[name]
        return [median_text(time), f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"]
