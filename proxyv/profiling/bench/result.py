"""From the times of rounds to the result of a timing run (`BenchResult`), and the ratios that may be formed from it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.profiling.bench.cells import Cell, Setting
from proxyv.profiling.bench.models import Candidate
from proxyv.profiling.bench.timing import TIMES
from proxyv.profiling.prefill import run_prefill, shapes
from proxyv.profiling.sample import method_crops
from proxyv.results.bench import (
    BenchedModel,
    BenchFigures,
    BenchResult,
    CellFigures,
    CellHead,
    CellResult,
    MedianAndIqr,
    RatioInterval,
)

RATIOS = (*TIMES, "llm_ms")


def summarise(cells: Sequence[Cell], baseline: str | None, text_tokens: int, rates: Sequence[float]) -> BenchFigures:
    """The figures of a run whose cells are timed; `rates`: the device's matrix rate in each round, TFLOP/s."""
    rate = median_and_iqr(rates) if rates else None
    distinct = {_model_and_crops(cell): cell for cell in cells if cell.failed is None}
    flops = {key: _prefill_flops(cell, text_tokens) for key, cell in distinct.items()}
    results: list[CellResult] = []
    for cell in cells:
        head: CellHead = {
            "label": cell.candidate.label,
            "attention": cell.setting.attention,
            "batch_size": cell.setting.batch_size,
            "crops": cell.setting.crops,
            "failed": cell.failed,
        }
        if cell.failed is None:
            results.append({**head, **_figures(cell, flops[_model_and_crops(cell)], text_tokens, rate)})
        else:
            results.append(cast(CellResult, head))
    _add_ratios(results, baseline)
    return {
        "baseline": baseline,
        "models": {cell.candidate.label: _about(cell.candidate) for cell in cells},
        "matrix_rate": rate,
        "cells": results,
    }


def _add_ratios(results: Sequence[CellResult], baseline: str | None) -> None:
    """Fill in the ratios of all cells to the baseline's cell at the same setting, where both have figures."""
    bases = {setting_of(cell): cell for cell in results if cell["label"] == baseline and cell["failed"] is None}
    for cell in results:
        base = bases.get(setting_of(cell))
        if base is not None and cell is not base and cell["failed"] is None:
            cell["ratios"] = {name: paired_ratio(_rounds(cell, name), _rounds(base, name)) for name in RATIOS}


def setting_of(cell: CellResult) -> Setting:
    """What a cell was measured at."""
    return Setting(cell["attention"], cell["batch_size"], cell["crops"])


def read_result(path: str | Path) -> BenchResult:
    """The result in a file. Raises UserError where the file is missing or is no result of a timing run."""
    result = read_json(Path(path))
    if result.get("kind") != "bench":
        raise UserError(f"{path}: not the result of a `proxyv bench`; give one that it wrote")
    return cast(BenchResult, result)


class Measured(NamedTuple):
    """One cell of a result: which model, at which setting."""

    result: BenchResult
    label: str
    at: Setting

    @property
    def failed(self) -> bool:
        """Whether there are no figures."""
        return any(cell["failed"] is not None for cell in self._found())

    def cell(self) -> CellResult:
        """The cell. Raises UserError where there is none with figures."""
        for cell in self._found():
            if cell["failed"] is not None:
                raise UserError(f"run {self.result['run']}: '{self.label}' was not measured: {cell['failed']}")
            return cell
        raise UserError(f"run {self.result['run']}: has no '{self.label}' at {', '.join(map(str, self.at))}")

    def _found(self) -> list[CellResult]:
        return [c for c in self.result["cells"] if c["label"] == self.label and setting_of(c) == self.at]


def time_ratio(one: Measured, other: Measured, figure: str) -> RatioInterval:
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


def _about(candidate: Candidate) -> BenchedModel:
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


def _model_and_crops(cell: Cell) -> tuple[str, int]:
    """What the FLOPs of one sample depend on."""
    return cell.candidate.label, cell.setting.crops


def _prefill_flops(cell: Cell, text_tokens: int) -> int:
    """FLOPs of one sample's prefill."""
    candidate = cell.candidate
    model = shapes(candidate.recipe)
    if candidate.folded:
        model.fold()
    return run_prefill(model, method_crops(candidate.recipe, cell.setting.crops), text_tokens).total


def _figures(cell: Cell, flops: int, text_tokens: int, rate: MedianAndIqr | None) -> CellFigures:
    """A cell's figures without ratios; `flops` of one sample's prefill, `rate` of the device's products, TFLOP/s."""
    config, batch = cell.candidate.model.config, cell.setting.batch_size
    prompt = batch * (cell.setting.crops * (config.tokens_per_crop + 1) + text_tokens)
    prefill, decode, end_to_end = (median_and_iqr(cell.rounds[name]) for name in TIMES)
    seconds = prefill["median"] / 1e3
    achieved = batch * flops / seconds / 1e12
    return {
        "prefill_ms": prefill,
        "decode_ms_per_token": decode,
        "end_to_end_ms": end_to_end,
        "parts": {name: median_and_iqr(values) for name, values in cell.parts.items()},
        "ratios": None,
        "peak_memory_mb": None if cell.peak_memory is None else cell.peak_memory / 2**20,
        "prompt_tokens": prompt,
        "prefill_tokens_per_second": prompt / seconds,
        "decode_tokens_per_second": batch / (decode["median"] / 1e3),
        "prefill_flops": batch * flops,
        "prefill_tflops_per_second": achieved,
        "share_of_matrix_rate": None if rate is None else achieved / rate["median"],
        "rounds": cell.rounds,
        "split_rounds": cell.parts,
    }


def _rounds(cell: CellResult, figure: str) -> list[float]:
    rounds = cell["split_rounds"] if figure in cell["split_rounds"] else cell["rounds"]
    return rounds[figure]


# ── from the times of rounds to figures ──────────────────────────────────────────────────────────────────────────────


def median_and_iqr(values: Sequence[float]) -> MedianAndIqr:
    """The median and the width between the quartiles, of two values or more."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def paired_ratio(values: Sequence[float], baseline: Sequence[float], resamples: int = 2000) -> RatioInterval:
    """Median of the round-by-round ratios, with the 95 % percentile-bootstrap interval of that median.

    The draws are seeded: the same rounds give the same interval.
    """
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    draw = random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(resamples)]
    cuts = statistics.quantiles(medians, n=40, method="inclusive")
    return {"median": statistics.median(ratios), "low": cuts[0], "high": cuts[-1]}
