"""The result of a timing run, ready for JSON, and the ratios that may be formed from it.

- kind "bench"; run (its id), time; baseline (a label, or null); settings; device, versions, commit
- models: label → recipe, method, its needs (as in methods/base.py) and whether it is approximate, folded, weights_mb
  (of one model; models of a run share what is alike)
- matrix_rate: TFLOP/s of plain matrix products {"median", "iqr"}, or null where it was not measured
- cells, one for each setting and model:
    - label, attention, batch_size, crops; failed: why there are no figures, or null. If null, also
    - prefill_ms, decode_ms_per_token, end_to_end_ms: {"median", "iqr"} in milliseconds
    - parts: tower_ms, projector_ms, selection_ms, llm_ms, other_ms of a split prefill (timing.py), likewise
    - ratios to the baseline's cell at the same setting: of the same figures and llm_ms, {"median", "low", "high"}
    - peak_memory_mb: the model's weights and what a prefill holds beside them; null for flex attention on a CPU
    - prompt_tokens of the batch, as the prompt has them, whatever a method drops
    - prefill_tokens_per_second, decode_tokens_per_second
    - prefill_flops (counted, as in prefill.py), prefill_tflops_per_second, share_of_matrix_rate (or null)
    - rounds, split_rounds: every round's figures, from which all the above comes
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.profiling.bench.cells import Cell, Setting
from proxyv.profiling.bench.models import Candidate
from proxyv.profiling.bench.timing import TIMES
from proxyv.profiling.prefill import run_prefill, shapes
from proxyv.profiling.sample import method_crops

RATIOS = (*TIMES, "llm_ms")


def summarise(cells: Sequence[Cell], baseline: str | None, text_tokens: int, rates: Sequence[float]) -> dict[str, Any]:
    """The figures of a run whose cells are timed; `rates`: the device's matrix rate in each round, TFLOP/s."""
    rate = median_and_iqr(rates) if rates else None
    flops: dict[tuple[str, int], int] = {}  # model and crops → of one sample
    written = []
    for cell in cells:
        key = (cell.candidate.label, cell.setting.crops)
        if cell.failed is None and key not in flops:
            flops[key] = _prefill_flops(cell.candidate, cell.setting.crops, text_tokens)
        head: dict[str, Any] = {"label": cell.candidate.label, **cell.setting._asdict(), "failed": cell.failed}
        if cell.failed is None:
            head |= _figures(cell, flops[key], text_tokens, None if rate is None else rate["median"])
        written.append(head)
    for one in written:
        base = next((b for b in written if b["label"] == baseline and setting_of(b) == setting_of(one)), None)
        if base is not None and one is not base and one["failed"] is None and base["failed"] is None:
            one["ratios"] = {name: paired_ratio(_rounds(one, name), _rounds(base, name)) for name in RATIOS}
    return {
        "baseline": baseline,
        "models": {cell.candidate.label: _about(cell.candidate) for cell in cells},
        "matrix_rate": rate,
        "cells": written,
    }


def setting_of(cell: Mapping[str, Any]) -> Setting:
    """What a written cell was measured at."""
    return Setting(cell["attention"], cell["batch_size"], cell["crops"])


def read_result(path: str | Path) -> dict[str, Any]:
    """A result file. Raises UserError where it is none."""
    result = read_json(Path(path))
    if result.get("kind") != "bench":
        raise UserError(f"{path}: not the result of a `proxyv bench`; give one that it wrote")
    return result


class Measured(NamedTuple):
    """One cell of a result: which model, at which setting."""

    result: Mapping[str, Any]
    label: str
    at: Setting

    @property
    def failed(self) -> bool:
        """Whether there are no figures."""
        return any(cell["failed"] is not None for cell in self._found())

    def cell(self) -> dict[str, Any]:
        """The cell. Raises UserError where there is none with figures."""
        for cell in self._found():
            if cell["failed"] is not None:
                raise UserError(f"run {self.result['run']}: '{self.label}' was not measured: {cell['failed']}")
            return dict(cell)
        raise UserError(f"run {self.result['run']}: has no '{self.label}' at {', '.join(map(str, self.at))}")

    def _found(self) -> list[dict[str, Any]]:
        return [c for c in self.result["cells"] if c["label"] == self.label and setting_of(c) == self.at]


def time_ratio(one: Measured, other: Measured, figure: str) -> dict[str, float]:
    """The ratio of a figure, one cell's to another's, as `paired_ratio`.

    Raises UserError where the two come from different runs: what a machine does changes between runs, so such a ratio
    says nothing; and where a cell is missing or has failed.
    """
    if one.result["run"] != other.result["run"]:
        raise UserError(
            f"'{one.label}' and '{other.label}' were timed in different runs ({one.result['run']}, "
            f"{other.result['run']}), and ratios exist within a run only; time both in one `proxyv bench`"
        )
    return paired_ratio(_rounds(one.cell(), figure), _rounds(other.cell(), figure))


def _about(candidate: Candidate) -> dict[str, Any]:
    model = candidate.model
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return {
        "recipe": candidate.recipe.name,
        "method": model.config.method,
        "needs": sorted(model.method.needs),
        "approximate": model.method.approximate,
        "folded": candidate.folded,
        "weights_mb": weights / 2**20,
    }


def _prefill_flops(candidate: Candidate, crops: int, text_tokens: int) -> int:
    model = shapes(candidate.recipe)
    if candidate.folded:
        model.fold()
    return run_prefill(model, method_crops(candidate.recipe, crops), text_tokens).total


def _figures(cell: Cell, flops: int, text_tokens: int, rate: float | None) -> dict[str, Any]:
    config, batch = cell.candidate.model.config, cell.setting.batch_size
    prompt = batch * (cell.setting.crops * (config.tokens_per_crop + 1) + text_tokens)
    times = {name: median_and_iqr(values) for name, values in cell.rounds.items()}
    seconds = times["prefill_ms"]["median"] / 1e3
    achieved = batch * flops / seconds / 1e12
    return {
        **times,
        "parts": {name: median_and_iqr(values) for name, values in cell.parts.items()},
        "ratios": None,
        "peak_memory_mb": None if cell.peak_memory is None else cell.peak_memory / 2**20,
        "prompt_tokens": prompt,
        "prefill_tokens_per_second": prompt / seconds,
        "decode_tokens_per_second": batch / (times["decode_ms_per_token"]["median"] / 1e3),
        "prefill_flops": batch * flops,
        "prefill_tflops_per_second": achieved,
        "share_of_matrix_rate": None if rate is None else achieved / rate,
        "rounds": cell.rounds,
        "split_rounds": cell.parts,
    }


def _rounds(cell: Mapping[str, Any], figure: str) -> list[float]:
    values: list[float] = cell["split_rounds" if figure in cell["split_rounds"] else "rounds"][figure]
    return values


# ── from the times of rounds to figures ──────────────────────────────────────────────────────────────────────────────


def median_and_iqr(values: Sequence[float]) -> dict[str, float]:
    """The median and the width between the quartiles, of two values or more."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def paired_ratio(values: Sequence[float], baseline: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """Median of the round-by-round ratios, with the 95 % bootstrap interval of that median."""
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    draw = random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(resamples)]
    cuts = statistics.quantiles(medians, n=40, method="inclusive")
    return {"median": statistics.median(ratios), "low": cuts[0], "high": cuts[-1]}
