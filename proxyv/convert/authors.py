"""Checkpoints in LLaVA's original layout → ours: the authors' ProxyV (arXiv 2505.15816, public code at commit
42d6d97), and LLaVA-1.5 and LLaVA-NeXT, which become `full`.

The authors' guided update of the last layer is dropped: nothing reads its result and it was never trained. Their
newline positions are kept (`newline_positions: authors`), since the weights were trained with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from proxyv.convert.folder import grid_of, make_processor, meta_model, read_tokenizer, template_name, write_folder
from proxyv.convert.plan import ConversionPlan, Part, Tensors, Translate
from proxyv.convert.tower import read_config, tower_config, tower_part, tower_prefix
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig, sub_config
from proxyv.model.modeling import ProxyVForConditionalGeneration

# Their model type → our family. LLaVA-1.5 was released as "llava".
MODEL_TYPES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_qwen": "qwen2",
    "llava_phi": "phi3",
    "llava_mistral": "mistral",
}

# Their key → ours; {layer} is the LLM layer that the j-th guided update belongs to.
_RENAMES = (
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.mm_projector\.0\.", "projector.up."),
    (r"^model\.mm_projector\.2\.", "projector.down."),
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower.{tower}"),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.0\.", "language_model.model.layers.{layer}.guided_update.mix."),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.2\.", "language_model.model.layers.{layer}.guided_update.up."),
    (
        r"^model\.vision_mlp_layers\.(\d+)\.layernorm_post\.",
        "language_model.model.layers.{layer}.guided_update.norm.",
    ),
    (r"^model\.vision_mlp_layers\.(\d+)\.", "language_model.model.layers.{layer}.guided_update."),
    (
        r"^model\.proxyv_initializer\.proxyv_tokens$",
        "language_model.model.layers.{start}.proxy_initializer.queries",
    ),
    (r"^model\.proxyv_initializer\.Wk\.", "language_model.model.layers.{start}.proxy_initializer.key_proj."),
    (r"^(model\.|lm_head\.)", r"language_model.\g<0>"),
)


def rename_key(key: str, start_layer: int, tower_prefix: str = "") -> str:
    """Our name of one of their parameters; `tower_prefix` is what the tower's own class puts before its keys."""
    for pattern, ours in _RENAMES:
        match = re.match(pattern, key)
        if match:
            layer = start_layer + int(match[1]) if "{layer}" in ours else None
            new = ours.replace("{layer}", str(layer)).replace("{start}", str(start_layer))
            return match.expand(new.replace("{tower}", tower_prefix)) + key[match.end() :]
    raise UserError(f"weights: unknown key '{key}'; this is no checkpoint in LLaVA's layout")


def load_authors(
    source: str | Path, tower: str | None = None, dtype: torch.dtype = torch.float32
) -> ProxyVForConditionalGeneration:
    """Load one of their checkpoint folders into memory (to convert one on disk, see `convert`).

    Args:
        source: folder with config.json and weights.
        tower: hub id or folder of the tower; default: what the config names.

    Raises UserError for a wrong model type and for keys that are missing, unused or misshapen (listing them).
    """
    plan = authors_plan(Path(source), read_config(Path(source)), tower)
    files = plan.check()
    plan.dtype = dtype
    model = ProxyVForConditionalGeneration(plan.model.config).to(dtype)
    with torch.no_grad():
        for part, file in files:
            model.load_state_dict(dict(plan.tensors(part, file)), strict=False)
        model.load_state_dict(plan.fresh, strict=False)
    return model.eval()


def convert_authors(
    source: Path, target: Path, theirs: Mapping[str, Any], tower: str | None, template: str | None
) -> list[str]:
    """Write one of their checkpoints as a complete proxyv model folder. Returns notes for the user.

    Raises UserError as `load_authors` does, and where the folder has no tokenizer.
    """
    plan = authors_plan(source, theirs, tower)
    config = plan.model.config
    template = template_name(config, template)
    grid = grid_of(theirs.get("image_grid_pinpoints"), config.vision_config.image_size, source)
    anyres = theirs.get("image_aspect_ratio") == "anyres"
    processor = make_processor(read_tokenizer(source), config, anyres, grid, template)
    write_folder(plan, source, target, processor, template)
    return plan.notes


def authors_plan(source: Path, theirs: Mapping[str, Any], tower: str | None = None) -> ConversionPlan:
    """The plan from their config.json and weights. Raises UserError for what is not supported."""
    _check_supported(source, theirs)
    weights = find_weights(source)
    outlines = weights.outlines()
    name = tower or theirs.get("mm_vision_tower")
    config = authors_config(theirs, tower_config(name, f"{source / 'config.json'}: mm_vision_tower"), outlines)
    model = meta_model(config)
    parts = [Part(weights, authors_translation(model))]
    if not any(key.startswith("model.vision_tower.") for key in outlines):
        parts.append(tower_part(str(name), model))
    embeddings = outlines.get("model.embed_tokens.weight")
    plan = ConversionPlan(str(source), model, parts, torch.bfloat16 if embeddings is None else embeddings.dtype)
    if "proxyv" not in theirs:
        plan.notes.append(
            "LLaVA puts no newline, or one per row of patches, where ours puts one per crop: answers differ "
            "somewhat until the model is trained on"
        )
        if "model.image_newline" not in outlines:
            add_fresh_newline(plan)
    elif theirs.get("learn_proxy") and theirs["model_type"] == "llava_phi":
        plan.notes.append(
            "the authors' Phi3 code spreads learned proxies as if they were spatial; these weights were trained so, "
            "and here they are spread by their splat weights"
        )
    return plan


def authors_translation(model: ProxyVForConditionalGeneration) -> Translate:
    """Their names → ours, without the last layer's guided update."""
    start, prefix = int(model.config.method.get("start_layer", 0)), tower_prefix(model)
    last = f"language_model.model.layers.{model.config.text_config.num_hidden_layers - 1}.guided_update."

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        try:
            ours = rename_key(name, start, prefix)
        except UserError:
            return None
        return {} if ours.startswith(last) else {ours: tensor}

    return translate


def add_fresh_newline(plan: ConversionPlan) -> None:
    """Give the plan a newline of the published initial scale, randn / √D, the same each time."""
    size = plan.model.config.text_config.hidden_size
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * size**-0.5
    plan.fresh["image_newline"] = values
    plan.notes.append("the checkpoint has no newline; it gets a fresh random one, to be trained")


def authors_config(theirs: Mapping[str, Any], vision_config: PreTrainedConfig, weights: Tensors) -> ProxyVConfig:
    """Our configuration for their config.json; hidden width and number of queries are read off the weights."""
    family = MODEL_TYPES[theirs["model_type"]]
    known = {
        *sub_config({"model_type": family}, "family").to_dict(),
        "rope_theta",
        "rope_scaling",
        "partial_rotary_factor",
    }
    skipped = {"model_type", "transformers_version", "torch_dtype", "dtype", "architectures", "layer_types"}
    text = {key: value for key, value in theirs.items() if key in known - skipped}
    if text.get("rope_scaling", {}) is None:  # the name is deprecated, and null says nothing
        del text["rope_scaling"]
    # They clear Qwen2's window in their own layer class; full attention is what the weights saw.
    text_config = sub_config({"model_type": family, **text}, "config")
    return ProxyVConfig(
        text_config=text_config,
        vision_config=vision_config,
        method=_method(theirs, weights),
        image_token_id=text_config.vocab_size,
        feature_layer=theirs.get("mm_vision_select_layer", -2),
        newline_positions="authors" if "proxyv" in theirs else "natural",
    )


def _method(theirs: Mapping[str, Any], weights: Tensors) -> dict[str, Any]:
    if not theirs.get("proxyv", False):
        return {"name": "full"}
    needed = ["model.vision_mlp_layers.0.context_proj.weight"]
    needed += ["model.proxyv_initializer.proxyv_tokens"] * bool(theirs.get("learn_proxy", False))
    if absent := [key for key in needed if key not in weights]:
        raise UserError(f"the weights do not fit the configuration: missing: {', '.join(absent)}")
    shared = {
        "start_layer": theirs["proxyv_start_layer"],
        "hidden_ratio": theirs["hidden_size"] // weights[needed[0]].shape[0],
    }
    if len(needed) > 1:
        return {"name": "proxyv_ns", **shared, "queries": weights[needed[1]].shape[0]}
    return {"name": "proxyv", **shared, "downsample": theirs["proxyv_reduce_factor"]}


def _check_supported(source: Path, theirs: Mapping[str, Any]) -> None:
    """Raise UserError for settings that have no counterpart here."""
    if theirs.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{source / 'config.json'}: model_type '{theirs.get('model_type')}' is none of {', '.join(MODEL_TYPES)}"
        )
    for key, only in (("mm_projector_type", "mlp2x_gelu"), ("mm_vision_select_feature", "patch")):
        if theirs.get(key, only) != only:
            raise UserError(f"{source / 'config.json'}: {key} '{theirs[key]}' is not supported, only '{only}'")
