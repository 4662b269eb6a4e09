"""What a checkpoint's own code makes of a picture, and what the converted folder does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from proxyv.convert.plan import ConversionPlan
from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.model.normalisation import STANDARD

# Beside the weights: (file, the key that the image processor's settings lie under).
_FILES = (("processor_config.json", "image_processor"), ("preprocessor_config.json", None))
_OURS = "ours pads them to a square in the mean colour, as LLaVA-1.5 was trained"
_CUTS = "shortens pictures to the tower's size and cuts off what reaches beyond the middle square"


def image_settings(folder: Path | str) -> dict[str, Any]:
    """What a folder says of its image processor; nothing where it says nothing. Raises UserError for a file that is
    no JSON object."""
    for name, key in _FILES:
        path = Path(folder) / name
        if path.is_file():
            content = read_json(path, "download it again")
            settings = content if key is None else content.get(key)
            if isinstance(settings, dict):
                return settings
    return {}


def normalisation(settings: Mapping[str, Any], vision_config: PreTrainedConfig) -> dict[str, list[float]]:
    """`image_mean` and `image_std` of the image processor: what the checkpoint says, else what its kind of tower was
    trained with."""
    siglip = str(vision_config.model_type).startswith("siglip")
    mean, std = STANDARD["siglip_vision_model" if siglip else "clip_vision_model"]
    usual = {"image_mean": list(mean), "image_std": list(std)}
    return usual | {key: settings[key] for key in usual if isinstance(settings.get(key), list)}


def note_hf_preprocessing(plan: ConversionPlan, settings: Mapping[str, Any], anyres: bool) -> None:
    """Say what ours does to pictures that transformers' LLaVA processors do otherwise."""
    if anyres:
        plan.notes.append("pictures: LLaVA-NeXT leaves out the patches of its padding, ours keeps them")
    elif not settings.get("do_pad", False):
        plan.notes.append(f"pictures that are not square: the checkpoint's image processor {_CUTS}; {_OURS}")


def note_original_preprocessing(plan: ConversionPlan, their_config: Mapping[str, Any], config_file: Path) -> None:
    """Say what ours does to pictures that LLaVA's original code does otherwise.

    Raises UserError for a way of cutting pictures that has no counterpart here.
    """
    mode = their_config.get("image_aspect_ratio") or "square"
    if mode not in ("square", "pad", "anyres"):
        raise UserError(f"{config_file}: image_aspect_ratio '{mode}' is not supported, only square, pad and anyres")
    if mode == "square":
        plan.notes.append(f"pictures that are not square: image_aspect_ratio '{mode}' {_CUTS}; {_OURS}")
    elif mode == "anyres" and "unpad" in their_config.get("mm_patch_merge_type", ""):
        plan.notes.append("pictures: LLaVA-NeXT leaves out the patches of its padding, ours keeps them")
