"""What differs between LLM families, and nothing else.

A family is Hugging Face's own decoder layer class plus how queries, keys and values come out of its attention
block. A method puts its mixin in front of the family's layer class (`layer_class`), so parameter names, cache,
`generate` and checkpointing stay Hugging Face's own. InternLM2.5 is no family: its weights convert to Llama's.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, eager_attention_forward, rotate_half
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from proxyv.errors import UserError, suggest

__all__ = [
    "FAMILIES",
    "Family",
    "drop_sliding_window",
    "eager_attention_forward",
    "family_of",
    "layer_class",
    "mix_into_layers",
    "rotate",
]

SelectQueries = Callable[[torch.Tensor], torch.Tensor]  # rows (B, K, …) → those that are queries (B, Q, …)
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # q (B, H, Q, head size), k and v (B, G, K, head size)


@dataclass(frozen=True)
class Family:
    """One LLM architecture. `project_qkv` takes its attention module, normed rows (B, K, D) and which of them are
    queries; it returns `Heads` before rotary."""

    layer: Any  # Hugging Face's decoder layer class
    project_qkv: Callable[[Any, torch.Tensor, SelectQueries], Heads]


def separate(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """One projection each; queries are computed for the chosen rows only. rows (B, K, D) → `Heads`."""
    query, key, value = attention.q_proj(select(rows)), attention.k_proj(rows), attention.v_proj(rows)
    return _split(attention, query), _split(attention, key), _split(attention, value)


def normed(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """As `separate`, then each head of queries and keys through a norm. rows (B, K, D) → `Heads`."""
    query, key, value = separate(attention, rows, select)
    return attention.q_norm(query), attention.k_norm(key), value


def fused(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """One projection for all three. It is called as a whole, for adapters and sharded weights, so queries are computed
    for all rows and chosen after, as in the authors' code. rows (B, K, D) → `Heads`."""
    config, size = attention.config, attention.head_dim
    sizes = [config.num_attention_heads * size, config.num_key_value_heads * size, config.num_key_value_heads * size]
    query, key, value = attention.qkv_proj(rows).split(sizes, -1)
    return _split(attention, select(query)), _split(attention, key), _split(attention, value)


def _split(attention: Any, rows: torch.Tensor) -> torch.Tensor:
    """(B, rows, heads · head size) → (B, heads, rows, head size)."""
    heads: torch.Tensor = rows.unflatten(-1, (-1, attention.head_dim))
    return heads.transpose(1, 2)


FAMILIES: dict[str, Family] = {
    "llama": Family(LlamaDecoderLayer, separate),  # Vicuna, Llama 2 and 3, SmolLM, converted InternLM2.5
    "qwen2": Family(Qwen2DecoderLayer, separate),  # Qwen2 and Qwen2.5: biases in q, k, v
    "qwen3": Family(Qwen3DecoderLayer, normed),
    "mistral": Family(MistralDecoderLayer, separate),
    "phi3": Family(Phi3DecoderLayer, fused),
}


def family_of(text_config: PreTrainedConfig) -> Family:
    """The family of an LLM configuration. Raises UserError naming what is supported."""
    family = FAMILIES.get(text_config.model_type)
    if family is None:
        hint = suggest(text_config.model_type, FAMILIES)
        raise UserError(f"llm.config.model_type: '{text_config.model_type}' is not a supported family{hint}")
    return family


def drop_sliding_window(text_config: PreTrainedConfig) -> None:
    """Take a sliding window out of an LLM configuration, in place.

    A window shorter than an image's rows (Phi-3-mini-4k: 2047 of 2885) would hide the image's beginning from the
    question behind it; the authors' code ignores it in training, so the released weights expect it gone.
    """
    if getattr(text_config, "sliding_window", None) is not None:
        text_config.sliding_window = None
    if getattr(text_config, "layer_types", None) is not None:
        text_config.layer_types = ["full_attention"] * text_config.num_hidden_layers


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of queries or keys.

    Args:
        heads: (B, heads, rows, head size).
        cos, sin: (B, rows, rotary size), at most the head size; the rest of a head passes as it is.

    Returns (B, heads, rows, head size).
    """
    cos, sin = cos[:, None], sin[:, None]
    turning, still = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
    turned = turning * cos + rotate_half(turning) * sin
    return torch.cat([turned, still], -1) if still.shape[-1] else turned


def mix_into_layers(llm: PreTrainedModel, mixin: Any, layers: Iterable[int]) -> list[tuple[int, Any]]:
    """Put a mixin in front of some of an LLM's decoder layers, in place; returns their (index, layer).

    Raises UserError for an LLM of no supported family.
    """
    mixed = layer_class(mixin, family_of(llm.config).layer)
    # Sharding and device placement must keep these layers whole, like the parent class.
    llm._no_split_modules = {*(llm._no_split_modules or ()), mixed.__name__}
    found = [(index, cast(nn.ModuleList, llm.model.layers)[index]) for index in layers]
    for _, layer in found:
        layer.__class__ = mixed
    return found


@cache
def layer_class(mixin: Any, parent: Any) -> type[nn.Module]:
    """`mixin` in front of a family's decoder layer, e.g. ProxyVLayer + LlamaDecoderLayer →
    ProxyVLlamaDecoderLayer."""
    name = mixin.__name__.removesuffix("Layer") + parent.__name__
    return type(name, (mixin, parent), {"__doc__": mixin.__doc__, "__module__": mixin.__module__})
