"""The vision tower's configuration and weights, for checkpoints that name it or lack its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from proxyv.convert.plan import Part, Tensors, Translate
from proxyv.convert.weights import find_weights, locate
from proxyv.errors import UserError
from proxyv.model.modeling import ProxyVForConditionalGeneration

# Parts of a CLIP or SigLIP checkpoint beside the vision tower.
_NOT_VISION = ("text_model.", "text_projection", "visual_projection", "logit_scale", "logit_bias")


def tower_config(name: str | None, field: str) -> PreTrainedConfig:
    """The vision configuration of a CLIP or SigLIP folder or hub id. Raises UserError where there is none."""
    if name is None:
        raise UserError(f"{field}: names no vision tower; give its folder or hub id with --tower")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{field}: no configuration at '{name}'; give the tower's folder or hub id with --tower"
        ) from error
    return getattr(config, "vision_config", config)


def tower_prefix(model: ProxyVForConditionalGeneration) -> str:
    """ "vision_model." where this transformers version nests the tower's weights below it, else nothing."""
    return "vision_model." if hasattr(model.vision_tower, "vision_model") else ""


def tower_part(name: str, model: ProxyVForConditionalGeneration) -> Part:
    """The tower's own checkpoint as a part of the target. Raises UserError where it has no weights."""
    return Part(find_weights(locate(name, "--tower")), tower_translation(model))


def tower_translation(model: ProxyVForConditionalGeneration) -> Translate:
    """Names in a CLIP or SigLIP checkpoint → ours; what is not the vision tower is left out."""
    own, prefix = model.vision_tower.state_dict().keys(), tower_prefix(model)

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        if name.startswith(_NOT_VISION):
            return {}
        inner = prefix + name.removeprefix("vision_model.")
        # SigLIP checkpoints hold a pooling head that a tower may be built without.
        return {f"vision_tower.{inner}": tensor} if inner in own else None

    return translate


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises UserError where there is none, or it is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; give the folder of a checkpoint")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return config
