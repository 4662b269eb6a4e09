"""Dropping vision tokens between decoder layers, by the attention that text gives them.

What FastV, PyramidDrop and the like share: a schedule (at the entrance of which layers how many vision tokens of an
image stay), whose attention ranks them, and at which positions the rest goes on. Layers from the first drop on work on
a subset of the rows (subset_layer.py), and their caches hold those rows only.

Letters as in row_subset.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers.cache_utils import Cache

from proxyv.methods.shared.row_subset import RowSubset, all_rows, received_attention
from proxyv.methods.shared.subset_layer import SubsetLayer, SubsetPlan, check_row_order
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.families import Family, family_of, mix_into_layers
from proxyv.model.layout import Layout
from proxyv.model.method import Method, Selection
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import gather_rows


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
        check_row_order(config, self.name)

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        llm = model.language_model
        family, schedule = family_of(llm.config), self.schedule(llm.config.num_hidden_layers)
        if not schedule:
            return
        layers = range(min(schedule) - self.ranks_by_layer_before, llm.config.num_hidden_layers)
        for _, layer in mix_into_layers(llm, DroppingLayer, layers):
            layer.family, layer.ranking = family, Ranking()

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> DroppingPlan:
        llm = model.language_model
        # Detached: with gradient checkpointing, a layer's second pass must record what its first one did.
        like = embeddings.detach()
        return DroppingPlan(
            llm=llm,
            embeddings=like,
            first=all_rows(layout, like.device),
            prompt_length=layout.prompt_length,
            method=self,
            schedule=self.schedule(llm.config.num_hidden_layers),
        )


class Ranking(Selection):
    """The ranking of one layer."""

    def forward(
        self, layer: Any, family: Family, hidden: torch.Tensor, rows: RowSubset, tables: Any, key: torch.Tensor | None
    ) -> torch.Tensor:
        """hidden (B, L', D) → (I, N) float32, without gradient; arguments as of `received_attention`."""
        with torch.no_grad():
            return received_attention(layer, family, hidden.detach(), rows, tables, key)


class KeyTap:
    """Takes the place of the cache in one layer's attention, passes on what it gets, and shows the layer's keys."""

    def __init__(self, cache: Cache | None):
        self.cache = cache
        self.key: torch.Tensor | None = None  # (B, G, L', head size), rotated

    def update(self, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the cache's own: key and value (B, G, L', head size) → those that the layer attends to."""
        self.key = key
        return (key, value) if self.cache is None else self.cache.update(key, value, *args, **kwargs)


@dataclass(kw_only=True)
class DroppingPlan(SubsetPlan):
    """Which rows each layer of one prefill works on. Filled in layer by layer; a layer that runs again, for gradient
    checkpointing, finds what the first pass chose."""

    method: DroppingMethod
    schedule: dict[int, float]
    rows: dict[int, RowSubset] = field(default_factory=dict)  # by layer, from the first that ranks or drops
    old_places: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that drops, (B, L') int64
    scores: dict[int, torch.Tensor] = field(default_factory=dict)  # by layer that ranks, (I, N) float32

    def remaining(self, values: torch.Tensor, fill: int, layers: int | None = None) -> torch.Tensor:
        rows = self.entering(max(self.rows, default=0) + 1 if layers is None else layers)
        return rows.gather(values).masked_fill(~rows.valid.to(values.device), fill)

    def entering(self, layer: int) -> RowSubset:
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
        """Decide which rows enter `layer`, by scores (I, N) of the vision tokens that come out of the layer before."""
        kept, self.old_places[layer] = self.entering(layer).keep_top(scores, self.counts(layer))
        self.rows[layer] = kept.compacted() if self.method.compacts_positions else kept

    def pass_on(self, layer: int) -> RowSubset:
        """The rows of a layer at whose entrance nothing is dropped, or was dropped before."""
        return self.rows.setdefault(layer, self.entering(layer))


class DroppingLayer(SubsetLayer):
    """Works on the rows that are left, and ranks or drops where the schedule says so."""

    family: Family
    ranking: Ranking

    def forward_with_images(
        self, hidden: torch.Tensor, index: int, plan: DroppingPlan, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """(B, rows that come in, D) → (B, rows that are left, D)."""
        before = plan.method.ranks_by_layer_before
        if plan.drops_at(index):
            if index not in plan.rows:
                plan.drop(index, plan.scores[index - 1] if before else self._rank(hidden, plan, plan.entering(index)))
            hidden = gather_rows(hidden, plan.old_places[index])
        rows = plan.pass_on(index)
        cache = arguments.get("past_key_values")
        plan.set_cache_rows(cache, index, rows)
        if not before or index in plan.scores or not plan.drops_at(index + 1):  # nothing to rank for the next layer
            return self.parent_forward(hidden, plan.layer_args(rows), arguments)
        tap = KeyTap(cache)
        output = self.parent_forward(hidden, plan.layer_args(rows), {**arguments, "past_key_values": tap})
        plan.scores[index] = self._rank(hidden, plan, rows, tap.key)
        return output

    def _rank(
        self, hidden: torch.Tensor, plan: DroppingPlan, rows: RowSubset, key: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(I, N) float32."""
        tables = plan.layer_args(rows).position_embeddings
        scores: torch.Tensor = self.ranking(self, self.family, hidden, rows, tables, key)
        return scores
