"""Markdown tables of timing runs, from their results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from proxyv.errors import UserError
from proxyv.model.method import NEEDS
from proxyv.profiling.bench.result import RATIOS, Measured, setting_of, time_ratio
from proxyv.profiling.bench.timing import PARTS
from proxyv.report.markdown import ABSENT, table_lines
from proxyv.report.published import PUBLISHED, published_figure

SETTINGS = {"attention": "attention", "batch_size": "batch", "crops": "crops"}
PAPER_SAMPLE = (1, 5, 50)  # batch, crops, text tokens
Result = Mapping[str, Any]
Cell = Mapping[str, Any]


class Base(NamedTuple):
    """What ratios are to: a model of a run."""

    result: Result
    label: str


def bench_tables(results: Sequence[Result], against: str | None = None) -> str:
    """The tables of one run or more, run after run.

    Args:
        against: the model that ratios are to; None: each run's own baseline.

    Raises UserError where a ratio would be to a model of another run, or of none.
    """
    return "\n".join(_of_run(result, _base(result, results, against)) for result in results)


def _base(own: Result, results: Sequence[Result], against: str | None) -> Base | None:
    if against is None:
        return None if own["baseline"] is None else Base(own, own["baseline"])
    for result in (own, *results):
        if against in result["models"]:
            return Base(result, against)
    raise UserError(f"compare: no run has '{against}'; use one of {', '.join(own['models'])}")


def _of_run(result: Result, base: Base | None) -> str:
    varying = [name for name in SETTINGS if len({cell[name] for cell in result["cells"]}) > 1]
    cells = _in_order([{**cell, "ratios": _ratios(result, cell, base)} for cell in result["cells"]], base)
    published = [_published(result, cell) for cell in cells]
    to = "" if base is None else f"× {base.label}"

    def table(head: Sequence[str], rows: Sequence[Sequence[str] | None]) -> str:
        shown = [
            [cell["label"], *(str(cell[name]) for name in varying), *row]
            for cell, row in zip(cells, rows, strict=True)
            if row is not None
        ]
        return "\n".join(table_lines(["model", *(SETTINGS[name] for name in varying), *head], shown)) + "\n"

    tables = [
        table(
            [*_with(to, "prefill ms", "decode ms/token", "end to end ms"), "peak MB"],
            [_times(cell, to) for cell in cells],
        ),
        table(
            [
                *("tower ms", "projector ms", "selection ms", *_with(to, "LLM ms"), "other ms"),
                *("prompt tokens/s", "new tokens/s", "TFLOP/s", "% of matrix rate"),
            ],
            [_parts(cell, to) for cell in cells],
        ),
    ]
    if any(figure is not None for figure in published) and base is not None:
        head = ["prefill time saved %", "LLM time saved %", "published %"]
        tables.append(table(head, [_saved(cell, figure) for cell, figure in zip(cells, published, strict=True)]))
    notes = [f"- {note}" for note in _notes(result, cells, varying, base)]
    return "\n".join([*tables, *notes]) + "\n"


def _in_order(cells: Sequence[Cell], base: Base | None) -> list[Cell]:
    """Setting by setting, the base first; one cell for all where no model runs, for one and the same reason."""
    ordered: list[Cell] = []
    for _, group in groupby(cells, key=setting_of):
        here = sorted(group, key=lambda cell: base is None or cell["label"] != base.label)
        reasons = {cell["failed"] for cell in here}
        all_alike = None not in reasons and len(reasons) == 1 and len(here) > 1
        ordered += [{**here[0], "label": "all models"}] if all_alike else here
    return ordered


def _ratios(result: Result, cell: Cell, base: Base | None) -> dict[str, Any] | None:
    """Ratios of a cell to the base at the same setting; None where one of both has no figures, or is the other."""
    if base is None or cell["failed"] is not None or cell["label"] == base.label:
        return None
    at = setting_of(cell)
    one, other = Measured(result, cell["label"], at), Measured(base.result, base.label, at)
    if base.result is result and other.failed:
        return None
    return {figure: time_ratio(one, other, figure) for figure in RATIOS}


def _with(to: str, *heads: str) -> list[str]:
    """Heads, each with the head of its ratio behind it."""
    return [column for head in heads for column in ([head, to] if to else [head])]


def _times(cell: Cell, to: str) -> list[str]:
    names = ("prefill_ms", "decode_ms_per_token", "end_to_end_ms")
    if cell["failed"] is not None:
        width = len(names) * (2 if to else 1)
        return [f"not measured: {cell['failed']}", *[ABSENT] * width]
    peak = cell["peak_memory_mb"]
    figures = [text for name in names for text in _figure(cell[name], cell, name, to)]
    return [*figures, ABSENT if peak is None else _significant(peak)]


def _parts(cell: Cell, to: str) -> list[str] | None:
    if cell["failed"] is not None:
        return None
    parts = {part: cell["parts"][f"{part}_ms"] for part in PARTS}
    share = cell["share_of_matrix_rate"]
    return [
        *(_milliseconds(parts[part]) for part in ("tower", "projector", "selection")),
        *_figure(parts["llm"], cell, "llm_ms", to),
        _milliseconds(parts["other"]),
        *(f"{cell[name]:,.0f}" for name in ("prefill_tokens_per_second", "decode_tokens_per_second")),
        _significant(cell["prefill_tflops_per_second"]),
        ABSENT if share is None else f"{100 * share:.1f}",
    ]


def _saved(cell: Cell, published: float | None) -> list[str] | None:
    if cell["ratios"] is None:
        return None
    saved = [f"{100 * (1 - cell['ratios'][name]['median']):.1f}" for name in ("prefill_ms", "llm_ms")]
    return [*saved, ABSENT if published is None else f"{published:.0f}"]


def _figure(time: Mapping[str, float], cell: Cell, name: str, to: str) -> list[str]:
    """A time and, where there is a base, its ratio."""
    if not to:
        return [_milliseconds(time)]
    if cell["ratios"] is None:
        return [_milliseconds(time), ABSENT]
    ratio = cell["ratios"][name]
    return [_milliseconds(time), f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"]


def _milliseconds(time: Mapping[str, float]) -> str:
    return f"{_significant(time['median'])} ({_significant(time['iqr'])})"


def _significant(value: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _published(result: Result, cell: Cell) -> float | None:
    """The paper's figure for a cell that has the paper's sample."""
    sample = (cell["batch_size"], cell["crops"], result["settings"]["text_tokens"])
    about = result["models"].get(cell["label"])  # none where one cell stands for all models
    if sample != PAPER_SAMPLE or about is None or not PUBLISHED.is_file():  # no file: not a checkout
        return None
    return published_figure(about["recipe"], "time_reduction_pct")


def _notes(result: Result, cells: Sequence[Cell], varying: Sequence[str], base: Base | None) -> list[str]:
    """What a reader must know to read the figures."""
    settings, device = result["settings"], result["device"]
    fixed = [f"{SETTINGS[name]} {cells[0][name]}" for name in SETTINGS if name not in varying]
    about = [*fixed, f"{settings['text_tokens']} text tokens", settings["dtype"], f"{settings['weights']} weights"]
    on = [f"{name} {value}" for name, value in device.items() if value is not None and name != "name"]
    versions = [f"{name} {version}" for name, version in result["versions"].items() if version is not None]
    notes = [
        f"Run {result['run']}, {result['time']}, commit {result['git_commit']}: {device['name']} ({', '.join(on)}); "
        f"{', '.join(versions)}.",
        f"{', '.join(about)}, {settings['new_tokens']} new tokens. {settings['repeats']} rounds of all models in turn, "
        f"{settings['warmup']} more before to warm up; medians, in brackets the width between quartiles.",
        f"Tower to other: parts of a prefill that waits for the device between them, from {settings['splits']} rounds; "
        "selection is what the method does before the LLM and to rank inside it. Peak MB: one model's weights and what "
        "its prefill holds.",
        "Prompt tokens are those of the prompt, whatever a method drops. TFLOP/s: counted work of the prefill, causal "
        "attention as full, by its time.",
    ]
    if base is not None:
        notes.append(f"× {base.label}: median of the ratios round by round, with its 95 % bootstrap interval.")
    if result["matrix_rate"] is not None:
        rate = result["matrix_rate"]
        notes.append(
            f"Matrix rate: {_significant(rate['median'])} ({_significant(rate['iqr'])}) TFLOP/s of plain "
            f"{settings['dtype']} products, measured in every round."
        )
    for word, labels in _marks(result).items():
        notes.append(f"{word}: {', '.join(labels)}.")
    if any(_published(result, cell) is not None for cell in cells):
        notes.append("Published: arXiv 2505.15816, eager attention on one H100, its tables' time reduction.")
    return notes


def _marks(result: Result) -> dict[str, list[str]]:
    """What some of the models need beyond features, and which are rebuilt from little, each with their labels."""
    marks: dict[str, list[str]] = {}
    for label, about in result["models"].items():
        needs = [f"Need {NEEDS[need]}" for need in about["needs"]]
        for mark in [*needs, *(["Approximate, since no code is public"] if about["approximate"] else [])]:
            marks.setdefault(mark, []).append(label)
    return marks
