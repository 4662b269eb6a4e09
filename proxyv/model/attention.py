"""Attention with a given visibility, through transformers' own attention functions."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from proxyv.errors import UserError
from proxyv.model.families import eager_attention_forward

BACK_ENDS = ("eager", "sdpa", "flex_attention")


def mask_for(visible: torch.Tensor, back_end: str, dtype: torch.dtype) -> torch.Tensor | BlockMask:
    """Turn a bool visibility (B, 1, Q, K) into what the back-end reads (eager: an additive mask; flex: blocks).

    Raises UserError for a back-end that takes no arbitrary mask.
    """
    if back_end not in BACK_ENDS:
        raise UserError(f"attention: '{back_end}' cannot take the needed mask; use {' or '.join(BACK_ENDS)}")
    if back_end == "sdpa":
        return visible
    if back_end == "flex_attention":
        batch, _, queries, keys = visible.shape
        return create_block_mask(
            lambda b, h, q, k: visible[b, 0, q, k], batch, None, queries, keys, device=visible.device
        )
    # The lowest finite number, not -inf: a row without any key must stay finite.
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def attend(
    attention: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | BlockMask,
) -> torch.Tensor:
    """Attention of an LLM's attention module on prepared heads.

    Args:
        attention: the Hugging Face attention module (gives scaling, dropout, group size and back-end).
        query: (B, H, Q, head size); key, value: (B, G, K, head size); mask: from `mask_for`.

    Returns (B, Q, H · head size), before the output projection.
    """
    function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.attention_dropout if attention.training else 0.0
    output, _ = function(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling, is_causal=False
    )
    return output.flatten(2)
