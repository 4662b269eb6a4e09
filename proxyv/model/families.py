"""What differs between LLM families, and nothing else.

A family is Hugging Face's own decoder layer class plus how queries, keys and values come out of its attention
block. A method puts its mixin in front of the family's layer class (`layer_class`), so parameter names, cache,
`generate` and checkpointing stay Hugging Face's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    eager_attention_forward,
    rotate_half,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from proxyv.config import suggest
from proxyv.errors import UserError

__all__ = ["FAMILIES", "Family", "eager_attention_forward", "family_of", "layer_class", "rotate"]

Projection = Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Family:
    """One LLM architecture. The projections take the attention module and normed rows (B, R, D)."""

    layer: Any  # Hugging Face's decoder layer
    query: Projection  # → (B, H, R, head size), before rotary
    key_value: Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # → 2 × (B, G, R, head size)


def split_heads(rows: torch.Tensor, attention: Any) -> torch.Tensor:
    """(B, R, heads · head size) → (B, heads, R, head size)."""
    return rows.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def separate_query(attention: Any, rows: torch.Tensor) -> torch.Tensor:
    return split_heads(attention.q_proj(rows), attention)


def separate_key_value(attention: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return split_heads(attention.k_proj(rows), attention), split_heads(attention.v_proj(rows), attention)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (B, heads, R, head size) with tables (B, R, rotary size); the rest of a head passes."""
    cos, sin = cos[:, None], sin[:, None]
    turning, still = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
    turned = turning * cos + rotate_half(turning) * sin
    return torch.cat([turned, still], -1) if still.shape[-1] else turned


FAMILIES: dict[str, Family] = {
    # Vicuna, Llama 2 and 3, SmolLM
    "llama": Family(LlamaDecoderLayer, separate_query, separate_key_value),
    # Qwen2 and Qwen2.5: biases in q, k, v
    "qwen2": Family(Qwen2DecoderLayer, separate_query, separate_key_value),
}


def family_of(text_config: PreTrainedConfig) -> Family:
    """The family of an LLM configuration. Raises UserError naming what is supported."""
    family = FAMILIES.get(text_config.model_type)
    if family is None:
        hint = suggest(text_config.model_type, FAMILIES)
        raise UserError(f"llm.config.model_type: '{text_config.model_type}' is not a supported family{hint}")
    return family


@cache
def layer_class(mixin: Any, parent: Any) -> type[nn.Module]:
    """`mixin` in front of a family's decoder layer, e.g. ProxyVLayer + LlamaDecoderLayer →
    ProxyVLlamaDecoderLayer."""
    name = mixin.__name__.removesuffix("Layer") + parent.__name__
    return type(name, (mixin, parent), {"__doc__": mixin.__doc__, "__module__": mixin.__module__})
