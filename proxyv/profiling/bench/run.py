"""Time and peak memory of many models at many settings, side by side with a baseline in one process.

A ratio is only ever formed from rounds in which all models ran in turn (A B C … baseline, A B C … baseline, …), so that
a machine that warms up, throttles or is shared slows all alike. timing.py says what one pass measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from uuid import uuid4

from proxyv.config import Recipe
from proxyv.environment import default_device, environment
from proxyv.model.dtypes import DTYPES
from proxyv.profiling.bench.cells import Setting, make_cells, time_cells
from proxyv.profiling.bench.checks import check_counts, check_run, refused_back_ends
from proxyv.profiling.bench.contestants import with_baseline
from proxyv.profiling.bench.device import MatrixRate, describe_device
from proxyv.profiling.bench.models import build_candidates
from proxyv.profiling.bench.result import summarise
from proxyv.profiling.sample import check_sample
from proxyv.results.bench import BenchFigures, BenchResult, RoundSettings, RunSettings


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
    splits: int = 3,
    model_path: str | Path | None = None,
    fold: str = "no",
    peak: bool = False,
) -> BenchResult:
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

    Returns a `BenchResult` (proxyv/results/bench.py), ready for JSON. A back-end that is not installed and a model that
    cannot run at a setting make cells with a reason instead of figures.

    Raises UserError for settings that cannot be measured, naming the one to change, and where no back-end is there.
    """
    device = device or default_device()
    check_run(device, dtype, fold)
    check_counts(warmup=warmup, repeats=repeats, splits=splits, new_tokens=new_tokens, batch_size=min(batch_sizes))
    settings = _settings(recipes[0], attentions, batch_sizes, crops, text_tokens)
    refused = refused_back_ends([setting.attention for setting in settings], device, dtype)
    contestants, baseline = with_baseline(recipes, compare, fold)
    for recipe, setting in product(contestants, settings):
        check_sample(recipe, setting.crops, text_tokens)
    built_for = next(setting.attention for setting in settings if setting.attention not in refused)
    contestants = [replace(recipe, attention=built_for) for recipe in contestants]
    candidates = build_candidates(contestants, len(recipes), device, DTYPES[dtype], model_path, fold)
    cells = make_cells(candidates, settings, text_tokens, refused)
    rate = MatrixRate(device, DTYPES[dtype]) if peak else None
    splits = min(splits, repeats)
    rates = time_cells(cells, new_tokens, warmup, repeats, splits, rate)
    figures = summarise(cells, baseline, text_tokens, rates)
    rounds: RoundSettings = {"new_tokens": new_tokens, "warmup": warmup, "repeats": repeats, "splits": splits}
    weights = "random" if model_path is None else str(model_path)
    return _result(figures, {"text_tokens": text_tokens, **rounds, "dtype": dtype, "weights": weights}, device)


def _settings(
    recipe: Recipe,
    attentions: Sequence[str | None],
    batch_sizes: Sequence[int],
    crops: Sequence[int | None],
    text_tokens: int,
) -> list[Setting]:
    """Every combination, each once; the recipe says what None means."""
    counts = [check_sample(recipe, count, text_tokens) for count in crops]
    grid = product(attentions, batch_sizes, counts)
    return list(dict.fromkeys(Setting(name or recipe.attention, size, count) for name, size, count in grid))


def _result(figures: BenchFigures, settings: RunSettings, device: str) -> BenchResult:
    return {
        "kind": "bench",
        "run": uuid4().hex[:12],
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **figures,
        "settings": settings,
        "device": describe_device(device),
        **environment(),
    }
