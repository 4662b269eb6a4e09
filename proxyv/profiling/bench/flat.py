"""One recipe against its baseline at one setting, as flat figures: `bench.json` of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from proxyv.config import Recipe
from proxyv.errors import UserError
from proxyv.profiling.bench.result import median_and_iqr, setting_of
from proxyv.profiling.bench.run import bench_recipes
from proxyv.results.bench import BenchResult, CellResult, FlatBench, FlatFigures, FlatRatios

# Fields of a `BenchResult` that a flat result leaves out, or holds in another form.
NOT_FLAT = ("kind", "baseline", "models", "matrix_rate", "cells", "settings")


def bench_recipe(
    recipe: Recipe,
    *,
    compare: str | Path | None = "full",
    device: str | None = None,
    dtype: str = "float32",
    batch_size: int = 1,
    crops: int | None = None,
    text_tokens: int = 50,
    new_tokens: int = 10,
    warmup: int = 2,
    repeats: int = 10,
    attention: str | None = None,
    model_path: str | Path | None = None,
    fold: bool = False,
) -> FlatBench:
    """One recipe against its baseline at one setting, as flat figures; arguments as `bench_recipes`.

    Returns a `FlatBench` (proxyv/results/bench.py), ready for JSON: times in milliseconds and peak memory in MiB of the
    recipe and, under `compared`, of the baseline, and the ratios of their times.

    Raises UserError for settings that cannot be measured, naming the one to change.
    """
    result = bench_recipes(
        [recipe],
        compare=compare,
        device=device,
        dtype=dtype,
        batch_sizes=[batch_size],
        crops=[crops],
        attentions=[attention],
        text_tokens=text_tokens,
        new_tokens=new_tokens,
        warmup=warmup,
        repeats=repeats,
        model_path=model_path,
        fold="yes" if fold else "no",
    )
    return _flat(result, recipe)


def _flat(result: BenchResult, recipe: Recipe) -> FlatBench:
    """A result of one recipe and one setting, without lists."""
    cells = {cell["label"]: cell for cell in result["cells"]}
    for cell in cells.values():
        if cell["failed"] is not None:
            raise UserError(f"{cell['label']}: {cell['failed']}")
    own = next(cell for label, cell in cells.items() if label != result["baseline"])
    about = result["models"][own["label"]]
    ratios: FlatRatios = {}
    if result["baseline"] is not None:
        base = cells[result["baseline"]]
        ratios = _ratios(own, base, result["models"][base["label"]]["method"])
    flat = {
        "recipe": recipe.name,
        "method": about["method"],
        **_figures(own),
        **ratios,
        **setting_of(own)._asdict(),
        **result["settings"],
        "folded": about["folded"],
        **{name: value for name, value in result.items() if name not in NOT_FLAT},
        "device": result["device"]["name"],
    }
    return cast(FlatBench, flat)


def _ratios(own: CellResult, base: CellResult, base_method: dict[str, Any]) -> FlatRatios:
    ratios = own["ratios"]
    assert ratios is not None  # both cells have figures
    return {
        "compare": base["label"],
        "compared": {"method": base_method, **_figures(base)},
        "prefill_time_ratio": ratios["prefill_ms"],
        "decode_time_ratio": ratios["decode_ms_per_token"],
        "end_to_end_time_ratio": ratios["end_to_end_ms"],
        "prefill_time_reduction": 1 - ratios["prefill_ms"]["median"],
    }


def _figures(cell: CellResult) -> FlatFigures:
    parts = cell["split_rounds"]
    vision = [tower + projector for tower, projector in zip(parts["tower_ms"], parts["projector_ms"], strict=True)]
    return {
        "vision_ms": median_and_iqr(vision),
        "prefill_ms": cell["prefill_ms"],
        "decode_ms_per_token": cell["decode_ms_per_token"],
        "end_to_end_ms": cell["end_to_end_ms"],
        "peak_memory_mb": cell["peak_memory_mb"],
    }
