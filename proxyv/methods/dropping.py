"""Dropping vision tokens between decoder layers, by the attention that text gives them.

What FastV, PyramidDrop and the like share: a schedule (after which layers how many vision tokens of an image stay),
whose attention ranks them, and at which positions the rest goes on. Layers behind the first drop work on rows of
their own, and their caches hold those rows only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from proxyv.methods.base import Method, Plan, Selection
from proxyv.methods.live_rows import LiveRows, live_rows, received_attention, take_rows
from proxyv.model.cache import DecodeRows, KeptRows, Stretch, keep_rows, row_mask
from proxyv.model.families import Family, family_of, layer_class
from proxyv.model.layout import Layout

if TYPE_CHECKING:  # proxyv.model.modeling imports this folder
    from proxyv.model.configuration import ProxyVConfig
    from proxyv.model.modeling import ProxyVForConditionalGeneration


@dataclass(frozen=True)
class DroppingMethod(Method):
    """Vision tokens of an image leave at the entrance of some layers; text and newlines never do."""

    needs: ClassVar[tuple[str, ...]] = ("llm_attention",)
    # Whose attention ranks at the entrance of layer i: that of layer i itself, on rows that are there anyway, or that
    # of layer i − 1, as it was computed.
    ranks_by_layer_before: ClassVar[bool] = False
    # Whether positions are counted anew after a drop, or stay as they were.
    compacts_positions: ClassVar[bool] = False

    def schedule(self, layers: int) -> dict[int, float]:
        """Layer → share of an image's original vision tokens that enter it; layers without a drop are left out."""
        raise NotImplementedError

    def count(self, tokens: int, share: float) -> int:
        """How many of an image's original `tokens` a share means."""
        return int(tokens * share)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        family_of(config.text_config)

    def install(self, model: ProxyVForConditionalGeneration, tokens: int) -> None:
        llm = model.language_model
        family, schedule = family_of(llm.config), self.schedule(llm.config.num_hidden_layers)
        if not schedule:
            return
        mixed = layer_class(DroppingLayer, family.layer)
        for index in range(min(schedule) - self.ranks_by_layer_before, llm.config.num_hidden_layers):
            layer = llm.model.layers[index]
            layer.__class__ = mixed
            layer.family, layer.ranking = family, Ranking()
        # Sharding and device placement must keep these layers whole, like the parent class.
        llm._no_split_modules = {*(llm._no_split_modules or ()), mixed.__name__}

    def plan(self, model: ProxyVForConditionalGeneration, layout: Layout, embeddings: torch.Tensor) -> DroppingPlan:
        llm = model.language_model
        schedule = self.schedule(llm.config.num_hidden_layers)
        # Detached: with gradient checkpointing, a layer's second pass must record what its first one did.
        like = embeddings.detach()
        return DroppingPlan(self, schedule, llm, like, live_rows(layout, like.device))


class Ranking(Selection):
    """The ranking of one layer."""

    def forward(self, layer: Any, family: Family, hidden: torch.Tensor, rows: LiveRows, tables: Any) -> torch.Tensor:
        """See `received_attention`."""
        with torch.no_grad():
            return received_attention(layer, family, hidden.detach(), rows, tables)


@dataclass
class DroppingPlan(Plan):
    """Which rows each layer of one prefill works on. Filled in layer by layer; a layer that runs again, for gradient
    checkpointing, finds what the first pass chose."""

    method: DroppingMethod
    schedule: dict[int, float]
    llm: Any
    embeddings: torch.Tensor  # (B, L, D) for dtype and device of masks and tables
    first: LiveRows
    rows: dict[int, LiveRows] = field(default_factory=dict)  # by layer, from the first that drops
    old_places: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that drops, (B, Q)
    scores: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that ranks, (I, K)
    stretches: dict[int, Stretch] = field(default_factory=dict)  # by id of the rows

    def left(self, values: torch.Tensor, fill: int) -> torch.Tensor:
        rows = self.rows[max(self.rows)] if self.rows else self.first
        return rows.take(values).masked_fill(~rows.valid.to(values.device), fill)

    def entering(self, layer: int) -> LiveRows:
        """The rows that come out of the layer before."""
        return self.rows.get(layer - 1, self.first)

    def drop(self, layer: int, scores: torch.Tensor) -> None:
        """Decide which rows enter `layer`, once."""
        if layer in self.rows:
            return
        counts = [
            min(now, self.method.count(first, self.schedule[layer]))
            for now, first in zip(self.entering(layer).counts, self.first.counts, strict=True)
        ]
        kept, self.old_places[layer] = self.entering(layer).best(scores, counts)
        self.rows[layer] = kept.compacted() if self.method.compacts_positions else kept

    def pass_on(self, layer: int) -> LiveRows:
        """The rows of a layer at whose entrance nothing is dropped, or was dropped before."""
        return self.rows.setdefault(layer, self.entering(layer))

    def stretch(self, rows: LiveRows) -> Stretch:
        """Mask and rotary tables of these rows."""
        key = id(rows)
        if key not in self.stretches:
            like = rows.take(self.embeddings[..., :1])
            mask = row_mask(self.llm.config, like, rows.valid if rows.padded else None)
            # `forward`, not a call: sharded training records which modules are called, in the same order everywhere.
            tables = self.llm.model.rotary_emb.forward(self.embeddings, rows.position_ids)
            self.stretches[key] = Stretch(mask, tables)
        return self.stretches[key]

    def remember(self, cache: Cache | None, layer: int, rows: LiveRows) -> None:
        """Let a layer's cache know its rows."""
        if cache is not None:
            # Behind dropped tokens a position is not the number of rows before it.
            keep_rows(cache, layer, KeptRows(rows.valid, rows.position_ids[:, -1] + 1, rows.padded))


class DroppingLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer: works on the rows that are left, and ranks or drops where the
    schedule says so. Without a plan it is the plain parent layer, on the rows that its cache knows."""

    family: Family
    ranking: Ranking
    self_attn: Any  # the parent layer's own

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: Any = None,
        vision_plan: DroppingPlan | None = None,
        decode_rows: DecodeRows | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, rows that come in, D) → (B, rows that are left, D)."""
        index = self.self_attn.layer_idx
        stretch = None
        if vision_plan is not None:
            hidden_states, rows = self._enter(hidden_states, index, vision_plan)
            vision_plan.remember(past_key_values, index, rows)
            stretch = vision_plan.stretch(rows)
        elif decode_rows is not None:
            stretch = decode_rows.of(index)
        if stretch is not None:
            # Gaps between positions must not be read as the ends of packed sequences: no position_ids.
            attention_mask, position_embeddings, position_ids = stretch.mask, stretch.position_embeddings, None
        return cast(Any, super()).forward(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )

    def _enter(self, hidden: torch.Tensor, index: int, plan: DroppingPlan) -> tuple[torch.Tensor, LiveRows]:
        """Drop what leaves at this layer's entrance, and rank for the next where that is due here."""
        before = plan.method.ranks_by_layer_before
        if index in plan.schedule:
            if index not in plan.rows:
                plan.drop(index, plan.scores[index - 1] if before else self._rank(hidden, plan.entering(index), plan))
            hidden = take_rows(hidden, plan.old_places[index])
        rows = plan.pass_on(index)
        if before and index + 1 in plan.schedule and index not in plan.scores:
            plan.scores[index] = self._rank(hidden, rows, plan)
        return hidden, rows

    def _rank(self, hidden: torch.Tensor, rows: LiveRows, plan: DroppingPlan) -> torch.Tensor:
        scores: torch.Tensor = self.ranking(self, self.family, hidden, rows, plan.stretch(rows).position_embeddings)
        return scores
