"""Decoder layers that work on rows of their own: what methods share that drop vision tokens, or let them skip layers.

The plan knows each layer's rows; the mixin hands mask and positions of these rows to Hugging Face's own layer, in
place of what the stock model hands to all. In the prefill they come from the plan, later from the layer's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from proxyv.errors import UserError
from proxyv.methods.shared.row_subset import RowSubset
from proxyv.model.attention import rotary_tables
from proxyv.model.cache import CachedRows, DecodeRows, LayerArgs, row_mask, set_cached_rows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Plan


def check_row_order(config: ProxyVConfig, name: str) -> None:
    """Raise UserError where rows do not stand in the order of their positions, by which they are masked here."""
    if config.newline_positions != "natural":
        raise UserError(
            f"method.name: {name} takes rows in the order of their positions; set vision.newline_positions to natural"
        )


@dataclass(kw_only=True)
class SubsetPlan(Plan):
    """What the layers of one prefill share."""

    llm: Any
    embeddings: torch.Tensor  # (B, L, D) without gradient, for dtype and device of masks and tables
    first: RowSubset  # all rows
    prompt_length: int  # see CachedRows
    latest: tuple[RowSubset, LayerArgs, CachedRows] | None = None  # neighbouring layers often work on the same rows

    def layer_args(self, rows: RowSubset) -> LayerArgs:
        """Mask and rotary tables of these rows."""
        return self._known(rows)[1]

    def set_cache_rows(self, cache: Cache | None, layer: int, rows: RowSubset) -> None:
        """Let a layer's cache know its rows."""
        if cache is not None:
            set_cached_rows(cache, layer, self._known(rows)[2])

    def _known(self, rows: RowSubset) -> tuple[RowSubset, LayerArgs, CachedRows]:
        if self.latest is None or self.latest[0] is not rows:
            like = rows.gather(self.embeddings[..., :1])
            mask = row_mask(self.llm.config, like, rows.valid if rows.padded else None)
            tables = rotary_tables(self.llm.model.rotary_emb, self.embeddings, rows.position_ids)
            # Behind dropped tokens a position is not the number of rows before it.
            kept = CachedRows(rows.valid, rows.position_ids[:, -1] + 1, rows.padded, self.prompt_length)
            self.latest = rows, LayerArgs(mask, tables), kept
        return self.latest


class SubsetLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer. With a plan (prefill with images) `_with_images` runs in its
    place; without one it is the plain parent layer, on the rows that its cache knows."""

    self_attn: Any  # the parent layer's own

    def forward(
        self,
        hidden_states: torch.Tensor,
        vision_plan: Any = None,
        decode_rows: DecodeRows | None = None,
        **arguments: Any,
    ) -> torch.Tensor:
        """(B, rows that come in, D) → (B, rows that are left, D); `arguments` are the parent's."""
        index = self.self_attn.layer_idx
        if vision_plan is not None:
            return self._with_images(hidden_states, index, vision_plan, arguments)
        output = self._parent(hidden_states, None if decode_rows is None else decode_rows.of(index), arguments)
        return self._zero_term(output) if self.training and torch.is_grad_enabled() else output

    def _with_images(self, hidden: torch.Tensor, index: int, plan: Any, arguments: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError

    def _zero_term(self, hidden: torch.Tensor) -> torch.Tensor:
        """Add zero, through this layer's own modules: a rank whose micro-batch has no image must still take part
        in the gradient exchange of every trained module, else the others wait for it forever."""
        return hidden

    def _parent(self, hidden: torch.Tensor, layer_args: LayerArgs | None, arguments: dict[str, Any]) -> torch.Tensor:
        """The parent layer on rows (B, Q, D) with their own mask and positions."""
        if layer_args is not None:
            own = {"attention_mask": layer_args.mask, "position_embeddings": layer_args.position_embeddings}
            # Gaps between positions must not be read as the ends of packed sequences: no position_ids.
            arguments = {**arguments, **own, "position_ids": None}
        return cast(torch.Tensor, cast(Any, super()).forward(hidden, **arguments))
