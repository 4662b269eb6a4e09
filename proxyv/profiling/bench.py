"""Prefill and decoding time and peak memory, measured side by side with a baseline in one process.

A ratio is only ever formed from runs that alternate with each other (A B A B …), so that a machine that warms up,
throttles or is shared slows both alike. Every clock reading waits for the device.
"""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from proxyv.adapters import load_model, merge_adapters
from proxyv.config import Recipe
from proxyv.environment import device_name, environment
from proxyv.errors import UserError
from proxyv.methods import describe_method, make_method
from proxyv.model.attention import masked_back_end
from proxyv.model.build import build_model
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.profiling.memory import peak_memory
from proxyv.profiling.sample import check_sample, compared_recipe, make_inputs
from proxyv.train.run_folder import find_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TIMES = ("vision_ms", "prefill_ms", "decode_ms_per_token", "end_to_end_ms")
RATIOS = {
    "prefill_time_ratio": "prefill_ms",
    "decode_time_ratio": "decode_ms_per_token",
    "end_to_end_time_ratio": "end_to_end_ms",
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
    """Measure a recipe's model, alternating with its baseline.

    Args:
        compare: "full" or another method's name (same recipe, same weights where names agree), a recipe file, or
            None to measure the recipe alone.
        device: "cpu", "cuda" or "cuda:1"; None: "cuda" where there is one.
        dtype: "float32", "bfloat16" or "float16".
        crops: crops of each sample's picture; None: the most the recipe allows.
        new_tokens: tokens that are decoded after the prefill, one by one with the cache.
        warmup, repeats: rounds that are thrown away, and rounds that count.
        attention: back-end of both models; None: the recipe's.
        fold: fold the recipe's model first (see `fold` of the model); the baseline stays as it is.
        model_path: a trained model of this recipe; None: random weights at the recipe's shapes (the time does not
            depend on the values).

    Returns for the recipe, and for the baseline under `compared`: `prefill_ms` (tower to the logits of the first
    token, cache included), `decode_ms_per_token`, `end_to_end_ms` (both together), `vision_ms` (tower and
    projector in a pass of their own), each `{"median", "iqr"}` in milliseconds, and `peak_memory_mb` (see
    `proxyv.profiling.memory`). With a baseline also `prefill_time_ratio`, `decode_time_ratio` and
    `end_to_end_time_ratio` (`{"median", "low", "high"}`, see `paired_ratio`) and `prefill_time_reduction`.

    Raises UserError for settings that cannot be measured, naming the one to change.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    attention = attention or recipe.attention
    _check_settings(device, dtype, attention)
    _check_counts(batch_size=batch_size, new_tokens=new_tokens, warmup=warmup, repeats=repeats)
    crops = check_sample(recipe, crops, text_tokens)
    recipes = [recipe] if compare is None else [recipe, compared_recipe(recipe, compare)]
    check_sample(recipes[-1], crops, text_tokens)
    recipes = [replace(each, attention=attention) for each in recipes]
    models = _build(recipes, device, DTYPES[dtype], model_path)
    if fold:
        models[0].fold()
    inputs = [make_inputs(model, crops, text_tokens, batch_size) for model in models]
    rounds = _alternate(models, inputs, new_tokens, warmup, repeats)
    summaries = [_summary(*each) for each in zip(models, inputs, rounds, strict=True)]
    result: dict[str, Any] = {"recipe": recipe.name, **summaries[0]}
    if compare is not None:
        result |= {"compare": recipes[1].name, "compared": summaries[1]}
        for key, name in RATIOS.items():
            result[key] = paired_ratio([times[name] for times in rounds[0]], [times[name] for times in rounds[1]])
        result["prefill_time_reduction"] = 1 - result["prefill_time_ratio"]["median"]
    settings = {
        "batch_size": batch_size,
        "crops": crops,
        "text_tokens": text_tokens,
        "new_tokens": new_tokens,
        "warmup": warmup,
        "repeats": repeats,
        "dtype": dtype,
        "device": device_name(device),
        "attention": attention,
        "folded": fold,
        "weights": "random" if model_path is None else str(model_path),
    }
    return {**result, **settings, **environment()}


def _check_counts(**counts: int) -> None:
    least = {"warmup": 0, "repeats": 2}  # two rounds make a spread
    for name, count in counts.items():
        if count < least.get(name, 1):
            raise UserError(f"{name}: {count} is too few; use {least.get(name, 1)} or more")


def _check_settings(device: str, dtype: str, attention: str) -> None:
    masked_back_end(attention)  # raises for an unknown one
    if dtype not in DTYPES:
        raise UserError(f"dtype: '{dtype}' is unknown; use one of {', '.join(DTYPES)}")
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


def _build(
    recipes: Sequence[Recipe], device: str, dtype: torch.dtype, model_path: str | Path | None
) -> list[ProxyVForConditionalGeneration]:
    """The models on their device, with the first one's weights wherever names and shapes agree."""
    models = []
    for index, recipe in enumerate(recipes):
        torch.manual_seed(recipe.seed)
        if index == 0 and model_path is not None:
            model = _trained(recipe, model_path, device, dtype)
        else:
            with torch.device(device), _default_dtype(dtype):
                model = build_model(recipe, weights=False)
        models.append(model.eval())
    source = models[0].state_dict()
    for model in models[1:]:
        own = model.state_dict()
        same = {name: value for name, value in source.items() if name in own and own[name].shape == value.shape}
        model.load_state_dict(same, strict=False)
    return models


def _trained(recipe: Recipe, path: str | Path, device: str, dtype: torch.dtype) -> ProxyVForConditionalGeneration:
    """The trained model of a run, model or adapter folder, adapters merged. Raises UserError where there is none, or
    it is no model of this recipe."""
    model: Any = load_model(find_model(path), dtype=dtype, attn_implementation=recipe.attention)
    merge_adapters(model)
    wanted = describe_method(make_method(recipe.method))
    if model.config.method != wanted:
        raise UserError(f"model_path: {path} was trained with method {model.config.method}, the recipe says {wanted}")
    shapes = {name: tensor.shape for name, tensor in build_model(recipe, device="meta").state_dict().items()}
    for name, tensor in model.state_dict().items():
        if shapes.get(name) != tensor.shape:  # else the baseline, which the recipe describes, would be another model
            raise UserError(f"model_path: '{name}' of {path} does not have the recipe's shape; use the model's recipe")
    trained: ProxyVForConditionalGeneration = model.to(device)
    return trained


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _alternate(
    models: Sequence[ProxyVForConditionalGeneration],
    inputs: Sequence[dict[str, Any]],
    new_tokens: int,
    warmup: int,
    repeats: int,
) -> list[list[dict[str, float]]]:
    """`repeats` rounds of times per model; in every round all models run, one after the other."""
    rounds: list[list[dict[str, float]]] = [[] for _ in models]
    # The bar appears only where the run turns out to be long.
    for index in tqdm(range(warmup + repeats), desc="bench", unit="round", delay=3, leave=False):
        for model, each, times in zip(models, inputs, rounds, strict=True):
            measured = _measure(model, each, new_tokens)
            if index >= warmup:
                times.append(measured)
    return rounds


@torch.no_grad()
def _measure(model: ProxyVForConditionalGeneration, inputs: dict[str, Any], new_tokens: int) -> dict[str, float]:
    """One round of one model, in milliseconds: the vision part alone, then prefill and greedy decoding."""
    clock = _clock(model.device)
    start = clock()
    model.projector(model.view(inputs["pixel_values"]).patches())
    vision = clock()
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    prefill = clock()
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
    end = clock()
    return {
        "vision_ms": vision - start,
        "prefill_ms": prefill - vision,
        "decode_ms_per_token": (end - prefill) / new_tokens,
        "end_to_end_ms": end - vision,
    }


def _clock(device: torch.device) -> Callable[[], float]:
    """Milliseconds at the moment when the device has finished all work that was sent to it."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() * 1e3

    return now


def _summary(
    model: ProxyVForConditionalGeneration, inputs: dict[str, Any], rounds: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "method": model.config.method,
        **{name: median_and_iqr([times[name] for times in rounds]) for name in TIMES},
        "peak_memory_mb": peak_memory(model, inputs) / 2**20,
    }


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
