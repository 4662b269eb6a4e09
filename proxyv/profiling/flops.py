"""What a recipe costs, counted on shapes alone: FLOPs, vision tokens, cache and memory of a prefill; parameters.

All of it comes from the model's own forward; see prefill.py for what counts as a FLOP.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from proxyv.config import Recipe
from proxyv.environment import environment
from proxyv.model.method import NEEDS
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration
from proxyv.profiling.prefill import DTYPE, run_prefill, shapes
from proxyv.profiling.sample import check_sample, compared_recipe, method_crops
from proxyv.results.profile import ParameterCounts, PrefillFigures, Profile, Reductions


def profile_recipe(
    recipe: Recipe, *, crops: int | None = None, text_tokens: int = 50, compare: str | Path | None = None
) -> Profile:
    """FLOPs, rows and memory of one sample's prefill, up to the logits of the first answer token; parameters.

    The defaults are the paper's protocol: 5 crops of 576 vision tokens, their newlines, and 50 text tokens.

    Args:
        crops: crops of the sample's image, in the recipe's grid; None: the most it allows.
        compare: "full" or another method's name (the same recipe with that method), or another recipe's file.

    Returns a `Profile` (proxyv/results/profile.py), ready for JSON: FLOPs, rows, bytes and parameters, what the method
    needs, the environment and, with `compare`, the reductions against the baseline and the baseline's own figures.

    Raises UserError for an impossible sample, a recipe without shapes, or an unknown `compare`.
    """
    crops = check_sample(recipe, crops, text_tokens)
    model = shapes(recipe)
    figures = prefill_figures(recipe, model, crops, text_tokens)
    parameters = count_parameters(model)
    full = count_parameters(shapes(replace(recipe, method={"name": "full"})))
    reductions: Reductions = {}
    if compare is not None:
        reductions = _reductions(figures, compared_recipe(recipe, compare), crops, text_tokens)
    return {
        "recipe": recipe.name,
        "method": model.config.method,
        "needs": {name: NEEDS[name] for name in sorted(model.method.needs)},
        "approximate": model.method.approximate,
        **figures,
        "dtype": str(DTYPE).removeprefix("torch."),
        "parameters": parameters,
        "added_parameters": parameters["total"] - full["total"],
        **reductions,
        **environment(),
    }


def _reductions(figures: PrefillFigures, baseline: Recipe, crops: int, text_tokens: int) -> Reductions:
    """What a prefill of these figures saves against the same sample's prefill by `baseline`."""
    base = prefill_figures(baseline, shapes(baseline), check_sample(baseline, crops, text_tokens), text_tokens)
    return {
        "compare": baseline.name,
        "decoder_flops_reduction": 1 - figures["decoder_flops"] / base["decoder_flops"],
        "total_flops_reduction": 1 - figures["total_flops"] / base["total_flops"],
        "compared": base,
    }


def prefill_figures(
    recipe: Recipe, model: ProxyVForConditionalGeneration, crops: int, text_tokens: int
) -> PrefillFigures:
    """FLOPs, rows and memory of one prefill by the recipe's model, which lies on the meta device.

    `crops` are those of the image in the recipe's grid; a method may give the model fewer.
    """
    crops = method_crops(recipe, crops)
    prefill = run_prefill(model, crops, text_tokens)
    others = text_tokens + (crops if model.method.text_reads_newlines else 0)
    by_layer = [rows - others for rows in prefill.cached_rows]
    return {
        **prefill.flops,
        "crops": crops,
        "vision_tokens": crops * model.config.tokens_per_crop,
        "newline_tokens": crops,
        "text_tokens": text_tokens,
        "vision_tokens_by_layer": by_layer,
        "mean_vision_tokens": sum(by_layer) / len(by_layer),
        "cache_bytes": prefill.cache_bytes,
        "activation_bytes": prefill.activation_bytes,
    }


def count_parameters(model: ProxyVForConditionalGeneration) -> ParameterCounts:
    """Parameters in total, by module group, and of one module of each kind that the method adds."""
    groups = dict.fromkeys(MODULE_GROUPS, 0)
    for name, parameter in model.named_parameters():
        groups[model.module_group(name)] += parameter.numel()
    per_module: dict[str, int] = {}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in model.method.modules:
            per_module.setdefault(kind, sum(parameter.numel() for parameter in module.parameters()))
    return cast(ParameterCounts, {"total": sum(groups.values()), **groups, "per_module": per_module})
