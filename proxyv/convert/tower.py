"""The vision tower's configuration and weights, for checkpoints that name it or lack its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from proxyv.convert.plan import Part, Tensors, Translate
from proxyv.convert.weights import find_weights, locate
from proxyv.errors import UserError, reading
from proxyv.files import read_json
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.sources import check_source
from proxyv.model.sub_configs import sub_config

# Parts of a CLIP or SigLIP checkpoint beside the vision tower.
_NOT_VISION = ("text_model.", "text_projection", "visual_projection", "logit_scale", "logit_bias")


def tower_config(name: str | None, field: str) -> PreTrainedConfig:
    """The vision configuration of a CLIP or SigLIP folder or hub id. Raises UserError where there is none."""
    if name is None:
        raise UserError(f"{field}: names no vision tower; give its folder or hub id with --tower")
    check_source(name, field)
    with reading(f"{field}: '{name}'", "give the tower's folder or hub id with --tower"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        tower = getattr(config, "vision_config", config)
        values = {key: value for key, value in tower.to_dict().items() if key != "transformers_version"}
    return sub_config(values, f"{field}: '{name}'")


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
    return read_json(path, "download it again")
