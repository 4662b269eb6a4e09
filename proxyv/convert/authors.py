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

from proxyv.convert.authors_config import authors_config, check_supported
from proxyv.convert.folder import grid_of, make_processor, meta_model, read_tokenizer, template_name, write_folder
from proxyv.convert.newline import NEWLINES_DIFFER, add_fresh_newline
from proxyv.convert.plan import ConversionPlan, Part, Tensors, Translate
from proxyv.convert.preprocessing import image_settings, note_original_preprocessing
from proxyv.convert.tower import read_config, tower_config, tower_part, tower_prefix
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError
from proxyv.model.modeling import ProxyVForConditionalGeneration

_UPDATE = "language_model.model.layers.{layer}.guided_update."
_INITIALISER = "language_model.model.layers.{start}.proxy_initializer."
# Their key → ours; {layer} is the LLM layer that the j-th guided update belongs to.
_RENAMES = (
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.mm_projector\.0\.", "projector.up."),
    (r"^model\.mm_projector\.2\.", "projector.down."),
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower.{tower}"),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.0\.", _UPDATE + "mix."),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.2\.", _UPDATE + "up."),
    (r"^model\.vision_mlp_layers\.(\d+)\.layernorm_post\.", _UPDATE + "norm."),
    (r"^model\.vision_mlp_layers\.(\d+)\.", _UPDATE),
    (r"^model\.proxyv_initializer\.proxyv_tokens$", _INITIALISER + "queries"),
    (r"^model\.proxyv_initializer\.Wk\.", _INITIALISER + "key_proj."),
    (r"^(model\.|lm_head\.)", r"language_model.\g<0>"),
)


def rename_key(key: str, start_layer: int, tower_prefix: str = "") -> str:
    """Our name of one of their parameters; `tower_prefix` is what the tower's own class puts before its keys.

    Raises UserError for a name that is not of their layout.
    """
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
    source: Path, target: Path, their_config: Mapping[str, Any], tower: str | None, template: str | None
) -> list[str]:
    """Write one of their checkpoints as a complete proxyv model folder. Returns notes for the user.

    Raises UserError as `load_authors` does, and where the folder has no tokenizer.
    """
    plan = authors_plan(source, their_config, tower)
    config = plan.model.config
    template = template_name(config, template)
    grid = grid_of(their_config.get("image_grid_pinpoints"), config.vision_config.image_size, source)
    anyres = their_config.get("image_aspect_ratio") == "anyres"
    if "proxyv" not in their_config:  # the authors' code packs pictures as ours does
        note_original_preprocessing(plan, their_config, source / "config.json")
    images = image_settings(tower or str(their_config.get("mm_vision_tower")))
    processor = make_processor(read_tokenizer(source), config, anyres, grid, template, images)
    write_folder(plan, source, target, processor, template)
    return plan.notes


def authors_plan(source: Path, their_config: Mapping[str, Any], tower: str | None = None) -> ConversionPlan:
    """The plan from their config.json and weights. Raises UserError for what is not supported."""
    check_supported(source, their_config)
    weights = find_weights(source)
    outlines = weights.outlines()
    name = tower or their_config.get("mm_vision_tower")
    config = authors_config(their_config, tower_config(name, f"{source / 'config.json'}: mm_vision_tower"), outlines)
    model = meta_model(config)
    parts = [Part(weights, authors_translation(model))]
    if not any(key.startswith("model.vision_tower.") for key in outlines):
        parts.append(tower_part(str(name), model))
    embeddings = outlines.get("model.embed_tokens.weight")
    plan = ConversionPlan(str(source), model, parts, torch.bfloat16 if embeddings is None else embeddings.dtype)
    if "proxyv" not in their_config:
        plan.notes.append(NEWLINES_DIFFER)
        if "model.image_newline" not in outlines:
            add_fresh_newline(plan)
    elif their_config.get("learn_proxy") and their_config["model_type"] == "llava_phi":
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
