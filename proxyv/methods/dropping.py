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

from proxyv.errors import UserError
from proxyv.methods.base import Method, Plan, Selection
from proxyv.methods.live_rows import LiveRows, live_rows, received_attention, take_rows
from proxyv.model.cache import DecodeRows, KeptRows, Stretch, keep_rows, row_mask
from proxyv.model.families import Family, family_of, put_in_front
from proxyv.model.layout import Layout

if TYPE_CHECKING:  # proxyv.model.modeling imports this folder
    from proxyv.model.configuration import ProxyVConfig
    from proxyv.model.modeling import ProxyVForConditionalGeneration


@dataclass(frozen=True)
class DroppingMethod(Method):
    """Vision tokens of an image leave at the entrance of some layers; text and newlines never do."""

    needs: ClassVar[tuple[str, ...]] = ("llm_attention",)
    # Whose attention ranks at the entrance of layer i: that of layer i − 1, whose keys are there, or that of layer i
    # itself, for which its keys are computed once more.
    ranks_by_layer_before: ClassVar[bool] = False
    # Whether positions are counted anew after a drop, or stay as they were.
    compacts_positions: ClassVar[bool] = False

    def schedule(self, layers: int) -> dict[int, float]:
        """Layer → share of an image's original vision tokens that enter it; layers without a drop are left out."""
        raise NotImplementedError

    def count(self, tokens: int, share: float) -> int:
        """How many of an image's original `tokens` a share means."""
        return round(tokens * share)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        family_of(config.text_config)
        if config.newline_positions != "natural":
            raise UserError(
                f"method.name: {self.name} takes rows in the order of their positions; "
                'set vision.newline_positions to "natural"'
            )

    def install(self, model: ProxyVForConditionalGeneration, tokens: int) -> None:
        llm = model.language_model
        family, schedule = family_of(llm.config), self.schedule(llm.config.num_hidden_layers)
        if not schedule:
            return
        layers = range(min(schedule) - self.ranks_by_layer_before, llm.config.num_hidden_layers)
        for _, layer in put_in_front(llm, DroppingLayer, layers):
            layer.family, layer.ranking = family, Ranking()

    def plan(self, model: ProxyVForConditionalGeneration, layout: Layout, embeddings: torch.Tensor) -> DroppingPlan:
        llm = model.language_model
        schedule = self.schedule(llm.config.num_hidden_layers)
        # Detached: with gradient checkpointing, a layer's second pass must record what its first one did.
        like = embeddings.detach()
        return DroppingPlan(self, schedule, llm, like, live_rows(layout, like.device), layout.prompt_length)


class Ranking(Selection):
    """The ranking of one layer."""

    def forward(
        self, layer: Any, family: Family, hidden: torch.Tensor, rows: LiveRows, tables: Any, key: torch.Tensor | None
    ) -> torch.Tensor:
        """See `received_attention`."""
        with torch.no_grad():
            return received_attention(layer, family, hidden.detach(), rows, tables, key)


class KeyTap:
    """Stands before the cache in one layer's attention and shows the keys that it computed."""

    def __init__(self, cache: Cache | None):
        self.cache = cache
        self.key: torch.Tensor | None = None  # (B, G, Q, head size), rotated

    def update(self, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the cache's own."""
        self.key = key
        return (key, value) if self.cache is None else self.cache.update(key, value, *args, **kwargs)


@dataclass
class DroppingPlan(Plan):
    """Which rows each layer of one prefill works on. Filled in layer by layer; a layer that runs again, for gradient
    checkpointing, finds what the first pass chose."""

    method: DroppingMethod
    schedule: dict[int, float]
    llm: Any
    embeddings: torch.Tensor  # (B, L, D) for dtype and device of masks and tables
    first: LiveRows
    prompt_length: int  # see KeptRows
    rows: dict[int, LiveRows] = field(default_factory=dict)  # by layer, from the first that drops
    old_places: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that drops, (B, Q)
    scores: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that ranks, (I, K)
    latest: tuple[LiveRows, Stretch] | None = None  # neighbouring layers mostly work on the same rows

    def left(self, values: torch.Tensor, fill: int) -> torch.Tensor:
        rows = self.rows[max(self.rows)] if self.rows else self.first
        return rows.take(values).masked_fill(~rows.valid.to(values.device), fill)

    def ranks_behind(self, layer: int) -> bool:
        """Whether the attention of `layer` is to rank for the next, and has not yet."""
        return self.method.ranks_by_layer_before and self.drops_at(layer + 1) and layer not in self.scores

    def entering(self, layer: int) -> LiveRows:
        """The rows that come out of the layer before."""
        return self.rows.get(layer - 1, self.first)

    def counts(self, layer: int) -> tuple[int, ...]:
        """Vision tokens of each image that enter `layer`."""
        now = self.entering(layer).counts
        if layer not in self.schedule:
            return now
        wanted = [self.method.count(first, self.schedule[layer]) for first in self.first.counts]
        return tuple(map(min, now, wanted))

    def drops_at(self, layer: int) -> bool:
        """Whether any vision token leaves at the entrance of `layer`."""
        return self.counts(layer) != self.entering(layer).counts

    def drop(self, layer: int, scores: torch.Tensor) -> None:
        """Decide which rows enter `layer`."""
        kept, self.old_places[layer] = self.entering(layer).best(scores, self.counts(layer))
        self.rows[layer] = kept.compacted() if self.method.compacts_positions else kept

    def pass_on(self, layer: int) -> LiveRows:
        """The rows of a layer at whose entrance nothing is dropped, or was dropped before."""
        return self.rows.setdefault(layer, self.entering(layer))

    def stretch(self, rows: LiveRows) -> Stretch:
        """Mask and rotary tables of these rows."""
        if self.latest is None or self.latest[0] is not rows:
            like = rows.take(self.embeddings[..., :1])
            mask = row_mask(self.llm.config, like, rows.valid if rows.padded else None)
            # `forward`, not a call: sharded training records which modules are called, in the same order everywhere.
            tables = self.llm.model.rotary_emb.forward(self.embeddings, rows.position_ids)
            self.latest = rows, Stretch(mask, tables)
        return self.latest[1]

    def remember(self, cache: Cache | None, layer: int, rows: LiveRows) -> None:
        """Let a layer's cache know its rows."""
        if cache is not None:
            # Behind dropped tokens a position is not the number of rows before it.
            known = KeptRows(rows.valid, rows.position_ids[:, -1] + 1, rows.padded, self.prompt_length)
            keep_rows(cache, layer, known)


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
        stretch, tap = None, None
        if vision_plan is not None:
            hidden_states = self._enter(hidden_states, index, vision_plan)
            rows = vision_plan.pass_on(index)
            vision_plan.remember(past_key_values, index, rows)
            stretch = vision_plan.stretch(rows)
            tap = KeyTap(past_key_values) if vision_plan.ranks_behind(index) else None
        elif decode_rows is not None:
            stretch = decode_rows.of(index)
        if stretch is not None:
            # Gaps between positions must not be read as the ends of packed sequences: no position_ids.
            attention_mask, position_embeddings, position_ids = stretch.mask, stretch.position_embeddings, None
        output = cast(Any, super()).forward(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values if tap is None else tap,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        if vision_plan is not None and tap is not None:
            vision_plan.scores[index] = self._rank(hidden_states, rows, vision_plan, tap.key)
        return cast(torch.Tensor, output)

    def _enter(self, hidden: torch.Tensor, index: int, plan: DroppingPlan) -> torch.Tensor:
        """Drop what leaves at this layer's entrance."""
        if not plan.drops_at(index):
            return hidden
        if index not in plan.rows:
            before = plan.method.ranks_by_layer_before
            scores = plan.scores[index - 1] if before else self._rank(hidden, plan.entering(index), plan, None)
            plan.drop(index, scores)
        return take_rows(hidden, plan.old_places[index])

    def _rank(self, hidden: torch.Tensor, rows: LiveRows, plan: DroppingPlan, key: torch.Tensor | None) -> torch.Tensor:
        tables = plan.stretch(rows).position_embeddings
        scores: torch.Tensor = self.ranking(self, self.family, hidden, rows, tables, key)
        return scores
