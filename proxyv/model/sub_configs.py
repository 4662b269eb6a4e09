"""Configurations of the LLM and of the tower, as recipes and saved models hold them: made and checked.

transformers checks types when it makes one; what it takes and cannot run, or runs into NaN, is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from proxyv.errors import UserError, reading, suggest

MOST, MOST_LAYERS = 2**24, 1000
_SIZES = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("max_position_embeddings", "image_size", "patch_size", "num_channels"),
)
_POSITIVE = (
    *("rms_norm_eps", "layer_norm_eps", "rope_theta", "factor", "partial_rotary_factor", "no_rope_layer_interval"),
    *("logits_scaling", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
)
_FLAGS = ("output_hidden_states", "output_attentions", "return_dict")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def sub_config(values: PreTrainedConfig | Mapping[str, Any], field: str) -> PreTrainedConfig:
    """A Hugging Face configuration from its dict form, by its `model_type`.

    Raises UserError that names `field` where transformers does not know the type, and for values that cannot be.
    """
    if isinstance(values, PreTrainedConfig):
        return values
    if not isinstance(values, Mapping):
        raise UserError(f"{field}: {values!r:.100} must be a mapping with a model_type")
    fields = {str(name): value for name, value in values.items()}
    model_type = fields.pop("model_type", None)
    # Asked first, since an unknown type and a wrong value come as the same error.
    try:
        known = AutoConfig.for_model(model_type)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{field}.model_type: '{model_type}' is unknown to transformers; name a model type it has"
        ) from error
    with reading(field, f"fix the field, as the configuration of a {known.model_type} has it"):
        config = AutoConfig.for_model(model_type, **fields)
    _check(config, field)
    return config


def position_limit(text_config: PreTrainedConfig) -> int:
    """The most rows that an LLM was made for: its positions, times the factor by which its rotary embedding is
    stretched where the configuration does not count that in."""
    rope: dict[str, Any] = getattr(text_config, "rope_parameters", None) or {}
    counted = rope.get("rope_type") in ("llama3", "longrope")
    factor = 1 if counted else max(1, rope.get("factor") or 1)
    return int(text_config.max_position_embeddings * factor)


def _check(config: PreTrainedConfig, field: str) -> None:
    """Raise UserError for the first value that cannot be."""
    values = config.to_dict()
    for name, value in _numbers(values):
        if abs(value) > 2**31 or not math.isfinite(value):
            raise UserError(f"{field}.{name}: {value!r:.100} is no number that can be meant; fix it")
        last = name.rsplit(".", 1)[-1]
        if last in _POSITIVE and value <= 0:
            raise UserError(f"{field}.{name}: {value!r} must be above 0")
        if "dropout" in last and not 0 <= value < 1:
            raise UserError(f"{field}.{name}: {value!r} must be from 0 to below 1")
    for name in (*_SIZES, "num_hidden_layers"):
        most = MOST_LAYERS if name == "num_hidden_layers" else MOST
        if name in values and values[name] is not None and not 1 <= values[name] <= most:
            raise UserError(f"{field}.{name}: {values[name]!r} must be from 1 to {most}")
    for name in _FLAGS:
        if not isinstance(values.get(name, False), bool):
            raise UserError(f"{field}.{name}: {values[name]!r:.100} must be true or false")
    for name in _TOKENS:
        check_token_ids(values.get(name), f"{field}.{name}")
    for name in ("hidden_act", "hidden_activation"):
        _check_word(f"{field}.{name}", values.get(name, "silu"), ACT2FN)
    rope = (values.get("rope_parameters") or {}).get("rope_type", "default")
    _check_word(f"{field}.rope_parameters.rope_type", rope, ("default", *ROPE_INIT_FUNCTIONS))


def _check_word(field: str, word: Any, known: Iterable[str]) -> None:
    if word not in known:
        raise UserError(f"{field}: '{word}' is unknown{suggest(str(word), known)}")


def check_token_ids(value: Any, field: str) -> None:
    """Raise UserError for what is neither a token id, nor some of them, nor none. -1 stands for none in old files."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) and -1 <= one < MOST for one in ids):
        raise UserError(f"{field}: {value!r:.100} must be a token's id, a list of them, or null")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a configuration with their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", value
