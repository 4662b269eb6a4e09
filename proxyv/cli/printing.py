"""How commands show figures: as JSON, as lines, in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxyv.files import write_json
from proxyv.results.lmms_eval import LmmsEvalResult
from proxyv.results.scores import SuiteResult


def show(figures: Mapping[str, object], as_json: bool, lines: Sequence[str]) -> None:
    """Print figures as JSON, or else these lines."""
    print(json.dumps(figures, indent=1) if as_json else "\n".join(lines))


def write(path: str | None, figures: Mapping[str, object]) -> None:
    """Write figures as JSON where a path is given."""
    if path is not None:
        write_json(Path(path), figures)


def flat_lines(figures: Mapping[str, object], prefix: str = "") -> list[str]:
    """One "name: value" line for each figure, large counts with thousands separators."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            lines += flat_lines(value, f"{prefix}{name}.")
        else:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"{prefix}{name}: {shown}")
    return lines


def suite_lines(result: SuiteResult) -> list[str]:
    """One line a benchmark, then the suite's own score."""
    lines = [
        f"{name}: {of['main']} {of['main_score']:.2f} ({of['num_samples']} samples)"
        for name, of in result["benchmarks"].items()
    ]
    return [*lines, f"{result['title']}: {result['score_name']} {result['score']:.2f}"]


def lmms_eval_lines(results: Mapping[str, LmmsEvalResult]) -> list[str]:
    """One line a score of each task, on lmms-eval's own scale, and what was put right."""
    lines = []
    for name, of in results.items():
        lines += [f"{name}: {score} {value:.4f} ({of['num_samples']} samples)" for score, value in of["scores"].items()]
        lines += [f"{name}: {note}" for note in of["notes"]]
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for the terminal: each column as wide as its widest cell, two spaces between columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
