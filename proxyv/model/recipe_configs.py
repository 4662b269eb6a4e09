"""A recipe's LLM and tower → their Hugging Face configurations, strictly: transformers itself takes any key.

`llm.config` and `vision.config` name a `model_type` and are complete with transformers' defaults; without one, the
configuration of `pretrained` is taken and theirs are the fields that differ.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from proxyv.config import LLMSpec, VisionSpec
from proxyv.domains import MOST
from proxyv.errors import UserError, reading, suggest
from proxyv.model.sources import check_folder, check_source
from proxyv.model.sub_configs import sub_config

# Sizes and numbers of things in any model, by the ends of their names: at least 1 of each.
_SIZES = ("_size", "_layers", "_heads", "_embeddings", "_channels", "head_dim", "_rank")
# Those that no model can make out of the others: never null.
_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "patch_size")
# Older spellings that transformers still takes.
_OLDER = ("rope_theta", "rope_scaling", "partial_rotary_factor", "torch_dtype")


def text_config(spec: LLMSpec) -> PreTrainedConfig:
    """The LLM's configuration. Raises UserError that names the field of `llm.config` that does not fit."""
    config = _made(spec.config, spec.pretrained, "llm")
    _divides("llm.config", {}, config, "num_key_value_heads", "num_attention_heads")
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and not 0 <= padding < config.vocab_size:
        raise UserError(f"llm.config.pad_token_id: must be below vocab_size {config.vocab_size}, found {padding}")
    return config


def vision_config(spec: VisionSpec) -> PreTrainedConfig:
    """The tower's configuration. Raises UserError that names the field of `vision.config` that does not fit, and for a
    feature layer that the tower does not have."""
    config = _made(spec.config, spec.pretrained, "vision")
    size = getattr(config, "image_size", None)  # without one, a tower takes crops of any shape
    if not isinstance(size, int) or size < config.patch_size:
        raise UserError(f"vision.config.image_size: must be one number, patch_size or more, found {size}")
    if config.num_channels != 3:
        raise UserError(f"vision.config.num_channels: images have 3, found {config.num_channels}")
    states = config.num_hidden_layers + 1  # with the input of the first block
    if not -states <= spec.feature_layer < states:
        raise UserError(
            f"vision.feature_layer: must be one of the tower's {states} hidden states, {-states} to {states - 1}, "
            f"found {spec.feature_layer}"
        )
    return config


def _made(values: Mapping[str, Any], pretrained: str | None, part: str) -> PreTrainedConfig:
    """The configuration of one part, its values checked; see the head of this file."""
    field, fields = f"{part}.config", dict(values)
    if "model_type" not in fields and pretrained is not None:
        fields = {**_read(pretrained, f"{part}.pretrained", part), **fields}
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{field}.model_type: must name a model type of transformers, found {kind!r}")
    standard = sub_config({"model_type": kind}, field)
    known = _keys(standard)
    for name, value in values.items():
        if name != "model_type":
            if name not in known and name not in _OLDER:
                raise UserError(f"unknown key '{field}.{name}'{suggest(name, known)}")
            _check(f"{field}.{name}", name, value, standard)
    if fields.get("head_dim") is None:
        _divides(field, fields, standard, "num_attention_heads", "hidden_size")
    return sub_config(fields, field)


def _read(pretrained: str, field: str, part: str) -> dict[str, Any]:
    """The configuration of pretrained weights as a mapping; of a whole CLIP or SigLIP its tower's."""
    check_source(pretrained, field)
    check_folder(pretrained)
    with reading(f"{field}: '{pretrained}'", f"give a folder or a reachable hub id, or write {part}.config out"):
        config = AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    own: PreTrainedConfig = getattr(config, "vision_config", config) if part == "vision" else config
    return dict(own.to_dict())


def _keys(standard: PreTrainedConfig) -> set[str]:
    """The keys that a configuration of this kind has."""
    keys = {*inspect.signature(type(standard)).parameters, *standard.to_dict(), *standard.attribute_map} - {"kwargs"}
    return {key for key in keys if not key.startswith("_")}


def _check(field: str, name: str, value: Any, standard: PreTrainedConfig) -> None:
    """Raise UserError for a value unlike the key's default."""
    if name in ("rope_parameters", "rope_scaling"):
        _check_rotary(field, value)
    default = getattr(standard, name, None)
    if name.endswith("token_id") or default is None or (value is None and name not in _NEEDED):
        return
    if isinstance(default, bool):
        _require(isinstance(value, bool), field, "true or false", value)
    elif isinstance(default, int) and name.endswith(_SIZES):
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and 1 <= value <= MOST, field, "a whole number, at least 1", value)
    elif isinstance(default, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(number and math.isfinite(value), field, "a number", value)
    elif isinstance(default, str):
        _require(isinstance(value, str), field, "text", value)
    if name == "hidden_act" and value not in ACT2FN:
        raise UserError(f"{field}: '{value}' is unknown{suggest(value, ACT2FN)}")


def _check_rotary(field: str, value: Any) -> None:
    """Raise UserError for rotary settings that are no mapping, or hold text where a number belongs."""
    _require(value is None or isinstance(value, Mapping), field, "a mapping", value)
    for name, one in (value or {}).items():
        if name not in ("rope_type", "type"):
            _require(not isinstance(one, str | Mapping | None), f"{field}.{name}", "a number", one)


def _require(fits: bool, field: str, wanted: str, value: Any) -> None:
    if not fits:
        raise UserError(f"{field}: must be {wanted}, found {value!r:.60}")


def _divides(field: str, fields: Mapping[str, Any], standard: PreTrainedConfig, part: str, whole: str) -> None:
    """Raise UserError where one of a configuration's numbers does not divide another."""
    share, total = (fields.get(name) or getattr(standard, name, None) for name in (part, whole))
    if isinstance(share, int) and isinstance(total, int) and total % share:
        raise UserError(f"{field}.{part}: {share} does not divide {whole} {total}; change one of them")
