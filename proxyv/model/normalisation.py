"""Which mean and deviation a tower expects of its images' channels, for values in 0…1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers.image_processing_base import ImageProcessingMixin

from proxyv.config import VisionSpec
from proxyv.errors import UserError
from proxyv.model.image_processing import CLIP_MEAN, CLIP_STD
from proxyv.model.recipe_configs import vision_config
from proxyv.model.sources import check_folder, check_source
from proxyv.schema import check_dataclass

# SigLIP and SigLIP 2 (arXiv 2303.15343, 2502.14786): values from -1 to 1.
STANDARD = {"clip_vision_model": (CLIP_MEAN, CLIP_STD), "siglip_vision_model": ((0.5,) * 3, (0.5,) * 3)}


def settle_normalisation(spec: VisionSpec) -> VisionSpec:
    """The vision part with its normalisation written out, as `normalisation` finds it; as it is where it states no
    tower."""
    if not spec.config and spec.pretrained is None:
        return spec
    mean, std = normalisation(spec)
    settled = replace(spec, image_mean=mean, image_std=std)
    check_dataclass(settled, "vision")
    return settled


def normalisation(spec: VisionSpec) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel.

    What is null is read from the `preprocessor_config.json` of `pretrained`; where there is none, it is that of the
    tower's kind. Raises UserError for a kind of tower that has no standard.
    """
    if spec.image_mean is not None and spec.image_std is not None:
        return spec.image_mean, spec.image_std
    mean, std = _published(spec) or _standard(spec)
    return spec.image_mean or list(mean), spec.image_std or list(std)


def _published(spec: VisionSpec) -> tuple[Sequence[float], Sequence[float]] | None:
    """What lies beside the pretrained weights; None where nothing does."""
    if spec.pretrained is None:
        return None
    check_source(spec.pretrained, "vision.pretrained")
    check_folder(spec.pretrained)
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(spec.pretrained)
    except OSError:  # there is none
        return None
    if found.get("image_mean") is None or found.get("image_std") is None:
        return None
    return found["image_mean"], found["image_std"]


def _standard(spec: VisionSpec) -> tuple[Sequence[float], Sequence[float]]:
    kind = vision_config(spec).model_type
    if kind not in STANDARD:
        raise UserError(f"vision.image_mean: nothing says what a {kind} expects; write image_mean and image_std out")
    return STANDARD[kind]
