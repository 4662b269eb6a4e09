"""Time and peak memory of many models at many settings, side by side with a baseline in one process.

A ratio is only ever formed from rounds in which all models ran in turn (A B C … baseline, A B C … baseline, …), so that
a machine that warms up, throttles or is shared slows all alike. timing.py tells what one pass measures.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from proxyv.config import Recipe
from proxyv.environment import default_device, environment
from proxyv.errors import UserError
from proxyv.model.attention import masked_back_end, require_back_end
from proxyv.model.dtypes import DTYPES, find_dtype
from proxyv.profiling.bench.cells import Setting, make_cells, time_cells
from proxyv.profiling.bench.contestants import with_baseline
from proxyv.profiling.bench.device import MatrixRate, describe_device
from proxyv.profiling.bench.models import FOLDING, build_candidates
from proxyv.profiling.bench.result import median_and_iqr, summarise
from proxyv.profiling.bench.timing import TIMES
from proxyv.profiling.sample import check_sample

FLAT_RATIOS = {
    "prefill_time_ratio": "prefill_ms",
    "decode_time_ratio": "decode_ms_per_token",
    "end_to_end_time_ratio": "end_to_end_ms",
}
NOT_FLAT = ("kind", "baseline", "models", "matrix_rate", "cells", "settings")
SPLITS = 3  # passes that are split into parts, by default
LEAST = {"warmup": 0, "repeats": 2, "splits": 2}  # two rounds make a spread; all other counts: 1


def bench_recipes(
    recipes: Sequence[Recipe],
    *,
    compare: str | Path | None = "full",
    device: str | None = None,
    dtype: str = "float32",
    batch_sizes: Sequence[int] = (1,),
    crops: Sequence[int | None] = (None,),
    attentions: Sequence[str | None] = (None,),
    text_tokens: int = 50,
    new_tokens: int = 10,
    warmup: int = 2,
    repeats: int = 10,
    splits: int = SPLITS,
    model_path: str | Path | None = None,
    fold: str = "no",
    peak: bool = False,
) -> dict[str, Any]:
    """Time the recipes' models and a baseline at every combination of batch size, crops and attention back-end.

    Args:
        compare: the baseline: "full" or another method's name (with the recipes' LLM and tower, which must then be the
            same), a recipe file, or None for no ratios.
        device: "cpu", "cuda" or "cuda:1"; None: "cuda" where there is one.
        dtype: "float32", "bfloat16" or "float16".
        crops: crops of each sample's image; None: the most the first recipe allows.
        attentions: back-ends of LLM and tower; None: the first recipe's.
        new_tokens: tokens that are decoded after the prefill, one by one with the cache.
        warmup, repeats: rounds that are thrown away, and rounds that count.
        splits: rounds, of those that count, in which every model also runs a prefill that is split into parts.
        model_path: a trained model of the first recipe; None: random weights at the recipe's shapes (the time does not
            depend on the values).
        fold: "yes" folds the recipes' models, "both" adds a folded one to each that can be folded.
        peak: measure the device's own rate of matrix products in every round, as a yardstick.

    Returns a JSON-ready result, see `result.py`. A back-end that is not installed and a model that cannot run at
    a setting make cells with a reason instead of figures. Raises UserError for settings that cannot be measured,
    naming the one to change, and where no back-end is there.
    """
    device = device or default_device()
    _check_run(device, dtype, fold)
    _check_counts(warmup=warmup, repeats=repeats, splits=splits, new_tokens=new_tokens, batch_size=min(batch_sizes))
    grid = product(attentions, batch_sizes, [check_sample(recipes[0], count, text_tokens) for count in crops])
    settings = list(dict.fromkeys(Setting(name or recipes[0].attention, size, count) for name, size, count in grid))
    refused = _refused([setting.attention for setting in settings], device, dtype)
    named, baseline = with_baseline(recipes, compare, fold)
    for recipe, setting in product(named, settings):
        check_sample(recipe, setting.crops, text_tokens)
    built_for = next(setting.attention for setting in settings if setting.attention not in refused)
    named = [replace(recipe, attention=built_for) for recipe in named]
    candidates = build_candidates(named, len(recipes), device, DTYPES[dtype], model_path, fold)
    cells = make_cells(candidates, settings, text_tokens, refused)
    rate = MatrixRate(device, DTYPES[dtype]) if peak else None
    splits = min(splits, repeats)
    rates = time_cells(cells, new_tokens, warmup, repeats, splits, rate)
    weights = "random" if model_path is None else str(model_path)
    rounds = {"new_tokens": new_tokens, "warmup": warmup, "repeats": repeats, "splits": splits}
    return {
        "kind": "bench",
        "run": uuid4().hex[:12],
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **summarise(cells, baseline, text_tokens, rates),
        "settings": {"text_tokens": text_tokens, **rounds, "dtype": dtype, "weights": weights},
        "device": describe_device(device),
        **environment(),
    }


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
) -> dict[str, Any]:
    """One recipe against its baseline at one setting, as flat figures; arguments as `bench_recipes`.

    Returns for the recipe, and for the baseline under `compared`: `prefill_ms` (tower to the logits of the first
    token, cache included), `decode_ms_per_token`, `end_to_end_ms` (both together), `vision_ms` (tower and projector,
    from passes of their own), each `{"median", "iqr"}` in milliseconds, and `peak_memory_mb` (see
    `proxyv.profiling.memory`). With a baseline also `prefill_time_ratio`, `decode_time_ratio` and
    `end_to_end_time_ratio` (`{"median", "low", "high"}`, see `paired_ratio`) and `prefill_time_reduction`.

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


def _flat(result: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A result of one recipe and one setting, without lists."""
    cells = {cell["label"]: cell for cell in result["cells"]}
    for cell in cells.values():
        if cell["failed"] is not None:
            raise UserError(f"{cell['label']}: {cell['failed']}")
    own = next(cell for label, cell in cells.items() if label != result["baseline"])
    about = result["models"][own["label"]]
    flat: dict[str, Any] = {"recipe": recipe.name, "method": about["method"], **_figures(own)}
    if result["baseline"] is not None:
        base, ratios = cells[result["baseline"]], own["ratios"]
        flat |= {"compare": base["label"], "compared": {"method": result["models"][base["label"]]["method"]}}
        flat["compared"] |= _figures(base)
        flat |= {name: ratios[of] for name, of in FLAT_RATIOS.items()}
        flat["prefill_time_reduction"] = 1 - flat["prefill_time_ratio"]["median"]
    return {
        **flat,
        **{name: own[name] for name in ("attention", "batch_size", "crops")},
        **result["settings"],
        "folded": about["folded"],
        **{name: value for name, value in result.items() if name not in NOT_FLAT},
        "device": result["device"]["name"],
    }


def _figures(cell: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: cell[name] for name in TIMES}
    parts = cell["split_rounds"]
    vision = [tower + projector for tower, projector in zip(parts["tower_ms"], parts["projector_ms"], strict=True)]
    return {"vision_ms": median_and_iqr(vision), **times, "peak_memory_mb": cell["peak_memory_mb"]}


def _refused(attentions: Sequence[str], device: str, dtype: str) -> dict[str, str]:
    """Back-ends that cannot run here → why. Raises UserError for unknown ones, and where all are refused."""
    refused = {}
    for attention in attentions:
        try:
            require_back_end(attention)
        except UserError as error:
            masked_back_end(attention)  # raises for an unknown one
            refused[attention] = str(error)
            continue
        if attention.startswith("flash_attention"):
            if torch.device(device).type != "cuda":
                refused[attention] = f"attention: '{attention}' needs a GPU; use sdpa"
            elif dtype == "float32":
                refused[attention] = f"attention: '{attention}' takes no float32; add --dtype bfloat16"
    if all(attention in refused for attention in attentions):
        raise UserError(refused[attentions[0]])
    return refused


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < LEAST.get(name, 1):
            raise UserError(f"{name}: {count} is too few; use {LEAST.get(name, 1)} or more")


def _check_run(device: str, dtype: str, fold: str) -> None:
    if fold not in FOLDING:
        raise UserError(f"fold: '{fold}' is unknown; use one of {', '.join(FOLDING)}")
    find_dtype(dtype)
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device: '{device}' is unknown; use cpu or cuda") from error
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device: '{device}' cannot be timed here; use cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: '{device}' is absent, torch sees no CUDA device; use cpu")
    if kind == "cpu" and dtype != "float32":
        warnings.warn(f"{dtype} is many times slower than float32 on most CPUs", stacklevel=3)
