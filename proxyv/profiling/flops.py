"""What a recipe costs, counted on shapes alone: FLOPs, vision tokens, cache and memory of a prefill; parameters.

All of it comes from the model's own forward; see prefill.py for what counts as a FLOP.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from proxyv.config import Recipe
from proxyv.environment import environment
from proxyv.model.method import NEEDS
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration
from proxyv.profiling.prefill import DTYPE, run_prefill, shapes
from proxyv.profiling.sample import check_sample, compared_recipe, method_crops


def profile_recipe(
    recipe: Recipe, *, crops: int | None = None, text_tokens: int = 50, compare: str | Path | None = None
) -> dict[str, Any]:
    """FLOPs, rows and memory of one sample's prefill, up to the logits of the first answer token; parameters.

    The defaults are the paper's protocol: 5 crops of 576 vision tokens, their newlines, and 50 text tokens.

    Args:
        crops: crops of the sample's image, in the recipe's grid; None: the most it allows.
        compare: "full" or another method's name (the same recipe with that method), or another recipe's file.

    Returns, as integers where no other type is named:
        FLOPs: `decoder_flops`, `tower_flops`, `projector_flops`, `head_flops`, `other_flops` (all outside these four)
            and their sum `total_flops`. Choosing and merging vision tokens costs `selection_flops`, of which
            `selection_flops_before_llm` lie between tower and LLM and `selection_flops_in_decoder` are the ranking
            in decoder layers, which `decoder_flops` include as in the paper.
        Rows: `crops`, `vision_tokens`, `newline_tokens`, `text_tokens` of the sample; `vision_tokens_by_layer` (a
            list) that each decoder layer keeps for the text behind them, their mean `mean_vision_tokens` (a float).
        Memory, in the prefill's `dtype`: `cache_bytes` of one sample; `activation_bytes`, the most that tensors hold
            at one moment beside weights and inputs: the cache so far, rows on their way, and the whole matrices of
            scores of eager attention, which fused attention does without.
        Parameters: `parameters` (`total`, each module group, and `per_module`: one module of each kind that the
            method adds) and `added_parameters` against the same recipe as `full`.
        The method: `method` (its fields), `needs` (what it needs beyond features, name → meaning), `approximate`
            (whether it is rebuilt from what little is public).
        With `compare`: `decoder_flops_reduction` and `total_flops_reduction` (fractions) and the baseline's own
            FLOPs, rows and memory as `compared`. The environment.

    Raises UserError for an impossible sample, a recipe without shapes, or an unknown `compare`.
    """
    crops = check_sample(recipe, crops, text_tokens)
    model = shapes(recipe)
    figures = prefill_figures(recipe, model, crops, text_tokens)
    parameters = count_parameters(model)
    full = count_parameters(shapes(replace(recipe, method={"name": "full"})))
    result = {
        "recipe": recipe.name,
        "method": model.config.method,
        "needs": {name: NEEDS[name] for name in sorted(model.method.needs)},
        "approximate": model.method.approximate,
        **figures,
        "dtype": str(DTYPE).removeprefix("torch."),
        "parameters": parameters,
        "added_parameters": parameters["total"] - full["total"],
    }
    if compare is not None:
        baseline = compared_recipe(recipe, compare)
        base = prefill_figures(baseline, shapes(baseline), check_sample(baseline, crops, text_tokens), text_tokens)
        result |= {
            "compare": baseline.name,
            "decoder_flops_reduction": 1 - figures["decoder_flops"] / base["decoder_flops"],
            "total_flops_reduction": 1 - figures["total_flops"] / base["total_flops"],
            "compared": base,
        }
    return {**result, **environment()}


def prefill_figures(
    recipe: Recipe, model: ProxyVForConditionalGeneration, crops: int, text_tokens: int
) -> dict[str, Any]:
    """FLOPs, rows and memory of one prefill by the recipe's model, as `profile_recipe` names them."""
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


def count_parameters(model: ProxyVForConditionalGeneration) -> dict[str, Any]:
    """Parameters in total, by module group, and of one module of each kind that the method adds."""
    groups = dict.fromkeys(MODULE_GROUPS, 0)
    for name, parameter in model.named_parameters():
        groups[model.module_group(name)] += parameter.numel()
    per_module: dict[str, int] = {}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in model.method.modules:
            per_module.setdefault(kind, sum(parameter.numel() for parameter in module.parameters()))
    return {"total": sum(groups.values()), **groups, "per_module": per_module}
