"""config.json in LLaVA's original layout → our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from proxyv.convert.plan import Tensors
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.sub_configs import sub_config

# Their model type → our family. LLaVA-1.5 was released as "llava".
MODEL_TYPES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_qwen": "qwen2",
    "llava_phi": "phi3",
    "llava_mistral": "mistral",
}


def authors_config(their_config: Mapping[str, Any], vision_config: PreTrainedConfig, weights: Tensors) -> ProxyVConfig:
    """Our configuration for their config.json; hidden width and number of queries are read off the shapes of `weights`.

    Raises UserError where ProxyV's weights are missing.
    """
    family = MODEL_TYPES[their_config["model_type"]]
    known = {
        *sub_config({"model_type": family}, "family").to_dict(),
        "rope_theta",
        "rope_scaling",
        "partial_rotary_factor",
    }
    skipped = {"model_type", "transformers_version", "torch_dtype", "dtype", "architectures", "layer_types"}
    text = {key: value for key, value in their_config.items() if key in known - skipped}
    if text.get("rope_scaling", {}) is None:  # the name is deprecated, and null says nothing
        del text["rope_scaling"]
    # They clear Qwen2's window in their own layer class; full attention is what the weights saw.
    text_config = sub_config({"model_type": family, **text}, "config")
    return ProxyVConfig(
        text_config=text_config,
        vision_config=vision_config,
        method=_method(their_config, weights),
        image_token_id=text_config.vocab_size,
        feature_layer=their_config.get("mm_vision_select_layer", -2),
        newline_positions="authors" if "proxyv" in their_config else "natural",
    )


def _method(their_config: Mapping[str, Any], weights: Tensors) -> dict[str, Any]:
    """Our method's name and fields. Raises UserError where a weight that says one of them is missing."""
    if not their_config.get("proxyv", False):
        return {"name": "full"}
    needed = ["model.vision_mlp_layers.0.context_proj.weight"]
    needed += ["model.proxyv_initializer.proxyv_tokens"] * bool(their_config.get("learn_proxy", False))
    if absent := [key for key in needed if key not in weights]:
        raise UserError(f"the weights do not fit the configuration: missing: {', '.join(absent)}")
    shared = {
        "start_layer": their_config["proxyv_start_layer"],
        "hidden_ratio": their_config["hidden_size"] // weights[needed[0]].shape[0],
    }
    if len(needed) > 1:
        return {"name": "proxyv_ns", **shared, "queries": weights[needed[1]].shape[0]}
    return {"name": "proxyv", **shared, "downsample": their_config["proxyv_reduce_factor"]}


def _needed(their_config: Mapping[str, Any]) -> dict[str, type]:
    """Fields that are taken as they stand, and their types."""
    optional = {"mm_vision_tower": str, "mm_vision_select_layer": int}
    needed = {key: type_ for key, type_ in optional.items() if their_config.get(key) is not None}
    if their_config.get("proxyv", False):
        needed |= {"hidden_size": int, "proxyv_start_layer": int}
        needed |= {} if their_config.get("learn_proxy", False) else {"proxyv_reduce_factor": int}
    return needed


def check_supported(source: Path, their_config: Mapping[str, Any]) -> None:
    """Raise UserError for settings that have no counterpart here."""
    file, kind = source / "config.json", their_config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(f"{file}: model_type '{kind}' is none of {', '.join(MODEL_TYPES)}")
    for key, type_ in _needed(their_config).items():
        value = their_config.get(key)
        if not isinstance(value, type_) or isinstance(value, bool):
            raise UserError(f"{file}: {key}: must be of type {type_.__name__}, found {value!r:.60}; copy it again")
    for key, only in (("mm_projector_type", "mlp2x_gelu"), ("mm_vision_select_feature", "patch")):
        if their_config.get(key, only) != only:
            raise UserError(f"{file}: {key} '{their_config[key]}' is not supported, only '{only}'")
