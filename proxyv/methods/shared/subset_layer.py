"""Decoder layers on a subset of the rows: what methods share that drop vision tokens, or let them skip layers.

The plan knows each layer's rows, and makes their causal mask and rotary tables; the mixin hands these to Hugging
Face's own layer, in place of what the stock model hands to all. Behind the prefill they come from the layer's cache.

Letters as in row_subset.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from proxyv.errors import FieldError
from proxyv.methods.shared.row_subset import RowSubset
from proxyv.model.attention import rotary_tables
from proxyv.model.cache import CachedRows, DecodeRows, LayerArgs, set_cached_rows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Plan


def check_row_order(config: ProxyVConfig, name: str) -> None:
    """Raise UserError where rows do not stand in the order of their positions, by which they are masked here."""
    if config.newline_positions != "natural":
        raise FieldError(
            "name", f"{name} takes rows in the order of their positions; set vision.newline_positions to natural"
        )


class PreparedRows(NamedTuple):
    """A subset of the rows, and what a layer that works on it needs."""

    rows: RowSubset
    layer_args: LayerArgs
    cached: CachedRows


@dataclass(kw_only=True)
class SubsetPlan(Plan):
    """What the layers of one prefill share."""

    llm: Any
    embeddings: torch.Tensor  # (B, L, D) without gradient, for dtype and device of masks and tables
    first: RowSubset  # all rows of the layout
    prompt_length: int  # see CachedRows
    latest: PreparedRows | None = None  # neighbouring layers often work on the same rows

    def layer_args(self, rows: RowSubset) -> LayerArgs:
        """Mask and rotary tables of these rows."""
        return self._prepare(rows).layer_args

    def set_cache_rows(self, cache: Cache | None, layer: int, rows: RowSubset) -> None:
        """Let a layer's cache know its rows. Raises UserError as `set_cached_rows` does."""
        if cache is not None:
            set_cached_rows(cache, layer, self._prepare(rows).cached)

    def _prepare(self, rows: RowSubset) -> PreparedRows:
        if self.latest is None or self.latest.rows is not rows:
            mask = create_causal_mask(  # of rows in reading order, as the model's attention back-end reads it
                config=self.llm.config,
                inputs_embeds=rows.gather(self.embeddings[..., :1]),  # gives number of rows, dtype and device
                attention_mask=rows.valid if rows.padded else None,
                past_key_values=None,
                position_ids=None,
            )
            tables = rotary_tables(self.llm.model.rotary_emb, self.embeddings, rows.position_ids)
            # Behind dropped tokens a position is not the number of rows before it.
            next_position = rows.position_ids[:, -1] + 1
            cached = CachedRows(rows.valid, next_position, rows.padded, self.prompt_length)
            self.latest = PreparedRows(rows, LayerArgs(mask, tables), cached)
        return self.latest


class SubsetLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer. With a plan (prefill with images) `forward_with_images` runs in
    its place; without one it is the plain parent layer, on the rows that its cache knows."""

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
            return self.forward_with_images(hidden_states, index, vision_plan, arguments)
        return self.parent_forward(hidden_states, None if decode_rows is None else decode_rows.of(index), arguments)

    def forward_with_images(
        self, hidden: torch.Tensor, index: int, plan: Any, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """As `forward`, for layer number `index` in a prefill with images: (B, rows that come in, D) → (B, rows that
        are left, D). Fills the cache."""
        raise NotImplementedError

    def parent_forward(
        self, hidden: torch.Tensor, layer_args: LayerArgs | None, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """The parent layer on rows (B, L', D), with their own mask and positions where `layer_args` gives them."""
        if layer_args is not None:
            own = {"attention_mask": layer_args.mask, "position_embeddings": layer_args.position_embeddings}
            # Gaps between positions must not be read as the ends of packed sequences: no position_ids.
            arguments = {**arguments, **own, "position_ids": None}
        output: torch.Tensor = cast(Any, super()).forward(hidden, **arguments)
        return output
