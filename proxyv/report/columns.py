"""One column for one way of measuring: scores of different prompts, splits, samples or versions never share one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxyv.report.figures import RunFigures


def ordered(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in order of first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def separate(runs: Sequence[RunFigures]) -> tuple[list[RunFigures], list[str]]:
    """Runs whose columns were measured in one way each: "Documents (anls)" becomes "Documents (anls) #1", "… #2" where
    runs differ in how they measured it.

    Returns the runs, and for each column, in words, how it was measured; a suite's only where it was split.
    """
    names = _names(runs)
    notes = []
    for column in ordered(run.scores for run in runs):
        notes += [f"{name}: {how}." for how, name in names.get(column, {}).items()]
    for column in ordered(run.suites for run in runs):
        ways = names.get(column, {})
        notes += [f"{name}: {how}." for how, name in ways.items() if len(ways) > 1]
    if any(len(ways) > 1 for ways in names.values()):
        notes.append("Columns with # are not comparable with each other: they were measured in different ways.")
    return [_renamed(run, names) for run in runs], notes


def _names(runs: Sequence[RunFigures]) -> dict[str, dict[str, str]]:
    """Column → how it was measured → the new name."""
    names: dict[str, dict[str, str]] = {}
    for run in runs:
        for column, how in run.protocols.items():
            names.setdefault(column, {})[how] = column
    for column, ways in names.items():
        if len(ways) > 1:
            names[column] = {how: f"{column} #{number}" for number, how in enumerate(ways, start=1)}
    return names


def _renamed(run: RunFigures, names: Mapping[str, Mapping[str, str]]) -> RunFigures:
    def new(column: str) -> str:
        return names[column][run.protocols[column]] if column in run.protocols else column

    return replace(
        run,
        scores={new(column): value for column, value in run.scores.items()},
        suites={new(column): value for column, value in run.suites.items()},
        protocols={new(column): how for column, how in run.protocols.items()},
    )
