"""Attention with a given visibility, through transformers' own attention functions. Letters as in `proxyv.model`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from proxyv.errors import UserError
from proxyv.model.families import eager_attention_forward, family_of

# Back-ends that take any visibility.
BACK_ENDS = ("eager", "sdpa")

Tables = tuple[torch.Tensor, torch.Tensor]  # rotary cos and sin, each (B, rows, rotary size)


def rotary_tables(rotary: nn.Module, like: torch.Tensor, position_ids: torch.Tensor) -> Tables:
    """Rotary tables of rows that are not the stock model's.

    Args:
        rotary: the LLM's rotary embedding module.
        like: gives device and dtype, as the input embeddings do.
        position_ids: (B, rows) int64.
    """
    # `forward`, not a call: sharded training records which modules are called, in the same order on all ranks.
    tables: Tables = rotary.forward(like, position_ids.to(like.device))
    return tables


def masked_back_end(back_end: str) -> str:
    """The back-end that attends with a given visibility where a model runs under `back_end`.

    Flash attention takes none, and flex compiles anew for every number of rows. Under them the stock layers keep the
    back-end, and sdpa serves where few rows are queries with a visibility of their own: their mask is small.

    Raises UserError for an unknown back-end.
    """
    if back_end in BACK_ENDS:
        return back_end
    # What transformers takes from the hub where flash-attn is not installed is called by its repository.
    if back_end.startswith(("flash_attention", "flex_attention", "kernels-community/")):
        return "sdpa"
    raise UserError(
        f"attention: '{back_end}' is unknown; use {', '.join(BACK_ENDS)}, flex_attention or flash_attention_2"
    )


def back_end_of(config: PreTrainedConfig) -> str:
    """The back-end that attends with a given visibility in an LLM of this configuration; see `masked_back_end`."""
    back_end = masked_back_end(config._attn_implementation)
    return back_end if family_of(config).score_cap is None else "eager"  # sdpa takes no cap


def check_back_end(back_end: str | None, text_config: PreTrainedConfig) -> None:
    """Raise UserError where a back-end cannot run an LLM of this configuration. None: transformers chooses one that
    can."""
    if back_end == "sdpa" and family_of(text_config).score_cap is not None:
        raise UserError(f"attention: 'sdpa' cannot cap scores, as {text_config.model_type} does; use eager")


def require_back_end(back_end: str) -> None:
    """Raise UserError where a back-end is unknown, or is not installed here."""
    masked_back_end(back_end)
    installed = is_flash_attn_2_available() or is_kernels_available()
    if back_end.startswith("flash_attention") and not installed:
        raise UserError(
            f"attention: '{back_end}' is not installed; pip install 'proxyv[flash]' on a GPU machine, or use sdpa"
        )


def mask_for(visible: torch.Tensor, back_end: str, dtype: torch.dtype) -> torch.Tensor:
    """A visibility (B, 1, Q, K) bool, in the form that a masked back-end reads.

    Args:
        back_end: "sdpa" or "eager".
        dtype: of the queries.

    Returns (B, 1, Q, K): the same bool for sdpa; for eager the additive mask in `dtype`, 0 where a key is seen.
    """
    if back_end == "sdpa":
        return visible
    # The lowest finite number, not -inf: a row without any key must stay finite.
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def attend(
    attention: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Attention of an LLM's attention module on prepared heads.

    Args:
        attention: the Hugging Face attention module (gives scaling, dropout, group size and back-end).
        query: (B, H, Q, head size).
        key, value: (B, G, K, head size).
        mask: (B, 1, Q, K), from `mask_for`.

    Returns (B, Q, H · head size), before the output projection.
    """
    function = ALL_ATTENTION_FUNCTIONS.get_interface(back_end_of(attention.config), eager_attention_forward)
    cap = family_of(attention.config).cap_of_scores(attention)
    dropout = attention.attention_dropout if attention.training else 0.0
    output: torch.Tensor = function(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling, softcap=cap, is_causal=False
    )[0]  # (B, Q, H, head size)
    return output.flatten(2)
