"""The parts of which LLM families differ: how a layer's two sublayers enter the residual stream, how queries, keys and
values come out of the projections, and what becomes of logits. families.py says which family has which.

All of it is done by the layer's own modules, under the names that Hugging Face gives them.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.llama.modeling_llama import rotate_half

__all__ = ["Block", "Heads", "SelectQueries", "capped", "fused", "normed", "normed_whole", "plain", "rotate", "scaled"]

SelectQueries = Callable[[torch.Tensor], torch.Tensor]  # rows (B, K, …) → those that are queries (B, Q, …)
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # q (B, H, Q, head size), k and v (B, G, K, head size)


@dataclass(frozen=True)
class Block:
    """The residual stream of a decoder layer: rows + scale · after(sublayer(before(rows))), for attention and for the
    FFN. Each field names a module (or, the scale, a number) of the layer; None: it has none there."""

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_ffn: str | None = "post_attention_layernorm"
    after_ffn: str | None = None
    scale: str | None = None

    def enter_attention(self, layer: Any, rows: torch.Tensor) -> torch.Tensor:
        """Rows (…, D) of the residual stream → what the layer's projections take, (…, D)."""
        return _through(layer, self.before_attention, rows)

    def add_attention_and_feed(self, layer: Any, rows: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Rows (…, D) of the residual stream and what attention, its output projection included, makes of them (…, D)
        → the rows that leave the layer, (…, D)."""
        rows = self._add(layer, rows, _through(layer, self.after_attention, attended))
        fed = layer.mlp(_through(layer, self.before_ffn, rows))
        return self._add(layer, rows, _through(layer, self.after_ffn, fed))

    def _add(self, layer: Any, rows: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        return rows + (update if self.scale is None else update * getattr(layer, self.scale))


def _through(layer: Any, name: str | None, rows: torch.Tensor) -> torch.Tensor:
    """Rows through the layer's module of this name."""
    passed: torch.Tensor = rows if name is None else getattr(layer, name)(rows)
    return passed


# ── queries, keys and values before rotary: attention module, rows (B, K, D), which are queries → `Heads` ─────────────


def plain(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """One projection each; queries are computed for the chosen rows only."""
    query, key, value = attention.q_proj(select(rows)), attention.k_proj(rows), attention.v_proj(rows)
    return _split(attention, query), _split(attention, key), _split(attention, value)


def normed(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """As `plain`, then each head of queries and keys through a norm."""
    query, key, value = plain(attention, rows, select)
    return attention.q_norm(query), attention.k_norm(key), value


def normed_whole(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """As `plain`, but all heads of a row's query go through one norm together, and so do those of its key."""
    query, key = attention.q_norm(attention.q_proj(select(rows))), attention.k_norm(attention.k_proj(rows))
    return _split(attention, query), _split(attention, key), _split(attention, attention.v_proj(rows))


def fused(attention: Any, rows: torch.Tensor, select: SelectQueries) -> Heads:
    """One projection for all three. It is called as a whole, for adapters and sharded weights, so queries are computed
    for all rows and chosen after, as in the authors' code."""
    config, size = attention.config, attention.head_dim
    sizes = [config.num_attention_heads * size, config.num_key_value_heads * size, config.num_key_value_heads * size]
    query, key, value = attention.qkv_proj(rows).split(sizes, -1)
    return _split(attention, select(query)), _split(attention, key), _split(attention, value)


def _split(attention: Any, rows: torch.Tensor) -> torch.Tensor:
    """(B, rows, heads · head size) → (B, heads, rows, head size)."""
    heads: torch.Tensor = rows.unflatten(-1, (-1, attention.head_dim))
    return heads.transpose(1, 2)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of queries or keys.

    Args:
        heads: (B, heads, rows, head size).
        cos, sin: (B, rows, rotary size), at most the head size; the rest of a head passes as it is. They may be of
            higher precision than the heads.

    Returns (B, heads, rows, head size), of the heads' dtype.
    """
    cos, sin = cos[:, None], sin[:, None]
    turning, still = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
    turned = (turning * cos + rotate_half(turning) * sin).to(heads.dtype)
    return torch.cat([turned, still], -1) if still.shape[-1] else turned


# ── logits: the LLM's configuration, what the output head says (…, V) → (…, V) ────────────────────────────────────────


def scaled(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """Divided by a number."""
    divided: torch.Tensor = logits / config.logits_scaling
    return divided


def capped(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """Kept between −cap and cap, smoothly."""
    cap = config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap
