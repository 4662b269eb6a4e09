"""Parameters and prefill FLOPs of a recipe, by running the model's own forward on the meta device: shapes only.

A multiplication and its addition count as two FLOPs; causal attention counts as full, as in the paper's figures
(arXiv 2505.15816). Element-wise work (norms, activations, rotary) is not counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from proxyv.config import Recipe
from proxyv.environment import environment
from proxyv.model.build import build_model
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration
from proxyv.profiling.sample import check_sample, compared_recipe, make_inputs


def profile_recipe(
    recipe: Recipe, *, crops: int | None = None, text_tokens: int = 50, compare: str | Path | None = None
) -> dict[str, Any]:
    """Parameters and FLOPs of one sample's prefill, up to the logits of the first answer token.

    The defaults are the paper's protocol: 5 crops of 576 vision tokens, their newlines, and 50 text tokens.

    Args:
        crops: crops of the sample's picture; None: the most the recipe allows.
        compare: "full" or another method's name (the same recipe with that method), or another recipe's file.

    Returns (FLOPs as integers) `decoder_flops`, `tower_flops`, `projector_flops`, `head_flops`, `other_flops`
    (all outside these four) and their sum `total_flops`; `parameters` (`total`, each module group, and
    `per_module`: one module of each kind that the method adds); the sample; the environment. With `compare` also
    `decoder_flops_reduction` and `total_flops_reduction` (fractions) and the baseline's own numbers as `compared`.

    Raises UserError for an impossible sample, a recipe without shapes, or an unknown `compare`.
    """
    crops = check_sample(recipe, crops, text_tokens)
    model = _shapes(recipe)
    flops = count_flops(model, crops, text_tokens)
    result = {
        "recipe": recipe.name,
        "method": model.config.method,
        **flops,
        "parameters": count_parameters(model),
        "crops": crops,
        "vision_tokens": crops * model.config.tokens_per_crop,
        "newline_tokens": crops,
        "text_tokens": text_tokens,
    }
    if compare is not None:
        baseline = compared_recipe(recipe, compare)
        base = count_flops(_shapes(baseline), check_sample(baseline, crops, text_tokens), text_tokens)
        result |= {
            "compare": baseline.name,
            "decoder_flops_reduction": 1 - flops["decoder_flops"] / base["decoder_flops"],
            "total_flops_reduction": 1 - flops["total_flops"] / base["total_flops"],
            "compared": base,
        }
    return {**result, **environment()}


def _shapes(recipe: Recipe) -> ProxyVForConditionalGeneration:
    # Eager attention is plain matrix products, which every torch release counts; fused back-ends do the same
    # products, but some cannot run on shapes alone.
    return build_model(replace(recipe, attention="eager"), device="meta").eval()


def count_flops(model: ProxyVForConditionalGeneration, crops: int, text_tokens: int) -> dict[str, int]:
    """FLOPs of the prefill of one sample by a model on the meta device, split by part."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**make_inputs(model, crops, text_tokens), use_cache=True, logits_to_keep=1)
    by_path = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    names = {module: name for name, module in model.named_modules()}

    def of(*modules: nn.Module) -> int:
        return sum(by_path.get(f"{type(model).__name__}.{names[module]}", 0) for module in modules)

    parts = {
        "decoder_flops": of(*cast(nn.ModuleList, model.get_decoder().layers)),
        "tower_flops": of(model.vision_tower),
        "projector_flops": of(model.projector),
        "head_flops": of(model.get_output_embeddings()),
    }
    total = counter.get_total_flops()
    return {**parts, "other_flops": total - sum(parts.values()), "total_flops": total}


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
