"""LLaVA-1.5 and LLaVA-NeXT in the layout of transformers' own classes (the `llava-hf` models) → ours, as `full`.

Names differ between transformers 4 (`language_model.model.…`) and 5 (`model.language_model.…`); both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proxyv.convert.folder import grid_of, make_processor, meta_model, read_tokenizer, template_name, write_folder
from proxyv.convert.newline import NEWLINES_DIFFER, add_fresh_newline
from proxyv.convert.plan import ConversionPlan, Part, Tensors, Translate
from proxyv.convert.preprocessing import image_settings, note_hf_preprocessing
from proxyv.convert.tower import tower_prefix
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.sub_configs import sub_config

MODEL_TYPES = ("llava", "llava_next")

# Pixel sizes (height, width) that transformers takes where a LLaVA-NeXT configuration names none.
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_RENAMES = (
    (r"^(model\.)?language_model\.(model\.)?(?=embed_tokens\.|layers\.|norm\.)", "language_model.model."),
    (r"^(language_model\.)?lm_head\.", "language_model.lm_head."),
    (r"^(model\.)?multi_modal_projector\.linear_1\.", "projector.up."),
    (r"^(model\.)?multi_modal_projector\.linear_2\.", "projector.down."),
    (r"^(model\.)?image_newline$", "image_newline"),
)
_TOWER = re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?")


def convert_llava_hf(source: Path, target: Path, their_config: Mapping[str, Any], template: str | None) -> list[str]:
    """Write a `llava-hf` checkpoint as a proxyv model folder. Returns notes for the user.

    Raises UserError for settings and weights that have no counterpart, and where there is no tokenizer.
    """
    plan = llava_hf_plan(source, their_config)
    config = plan.model.config
    template = template_name(config, template)
    anyres = their_config["model_type"] == "llava_next"
    pinpoints = [[width, height] for height, width in their_config.get("image_grid_pinpoints") or _PINPOINTS]
    grid = grid_of(pinpoints, config.vision_config.image_size, source) if anyres else None
    images = image_settings(source)
    note_hf_preprocessing(plan, images, anyres)
    processor = make_processor(read_tokenizer(source), config, anyres, grid, template, images)
    write_folder(plan, source, target, processor, template)
    return plan.notes


def llava_hf_plan(source: Path, their_config: Mapping[str, Any]) -> ConversionPlan:
    """The plan from their config.json and weights. Raises UserError for what is not supported."""
    _check_supported(source, their_config)
    text = sub_config(_plain(their_config["text_config"]), f"{source / 'config.json'}: text_config")
    config = ProxyVConfig(
        text_config=text,
        vision_config=sub_config(_plain(their_config["vision_config"]), f"{source / 'config.json'}: vision_config"),
        method={"name": "full"},
        image_token_id=text.vocab_size,
        feature_layer=their_config.get("vision_feature_layer", -2),
    )
    model = meta_model(config)
    weights = find_weights(source)
    outlines = weights.outlines()
    dtype = next((t.dtype for name, t in outlines.items() if name.endswith("embed_tokens.weight")), torch.float16)
    plan = ConversionPlan(str(source), model, [Part(weights, llava_hf_translation(model))], dtype)
    plan.notes.append(NEWLINES_DIFFER)
    if not any(name.removeprefix("model.") == "image_newline" for name in outlines):
        add_fresh_newline(plan)
    return plan


def llava_hf_translation(model: ProxyVForConditionalGeneration) -> Translate:
    """Their names → ours."""
    renames = [*_RENAMES, (_TOWER.pattern, "vision_tower." + tower_prefix(model))]

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        for pattern, ours in renames:
            match = re.match(pattern, name)
            if match:
                return {ours + name[match.end() :]: tensor}
        return None

    return translate


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration without what only says how it was saved."""
    skipped = ("torch_dtype", "dtype", "architectures", "transformers_version", "_name_or_path", "auto_map")
    return {key: value for key, value in values.items() if key not in skipped}


def _check_supported(source: Path, their_config: Mapping[str, Any]) -> None:
    """Raise UserError for settings that have no counterpart here."""
    only = {
        "projector_hidden_act": "gelu",
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
    }
    file = source / "config.json"
    for key, value in only.items():
        if their_config.get(key, value) != value:
            raise UserError(f"{file}: {key} '{their_config[key]}' is not supported, only '{value}'")
    if not isinstance(their_config.get("vision_feature_layer", -2), int):
        raise UserError(f"{file}: vision_feature_layer must be one layer; several are not supported")
