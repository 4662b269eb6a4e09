"""A subset of a prompt's rows, for methods that drop vision tokens between decoder layers or let them skip layers, and
how vision tokens are ranked by the attention that text gives them.

Letters beside those of `proxyv.model`: L' rows of the subset (padded on the left), N vision tokens of an image that are
left, O rows of text and newlines and R ranking rows of a sample (each padded). Where crops are ranked one by one,
what is said of an image holds for a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from proxyv.model.families import Family
from proxyv.model.layout import Layout
from proxyv.model.rows import count_positions, gather_rows, pack_left


@dataclass(frozen=True)
class RowSubset:
    """Some vision tokens of each image, and all rows of text and newlines. Row `index` of the layout is at its *place*
    here, a column from 0 to L' − 1.

    Numbers of rows are known from the batch alone, which rows is not: nothing here waits for the device, and all of it
    works on shapes (the meta device)."""

    index: torch.Tensor  # (B, L') int64 row of the layout, within the sample; any at padding
    valid: torch.Tensor  # (B, L') bool
    position_ids: torch.Tensor  # (B, L') int64
    vision: torch.Tensor  # (I, N) int64 places of vision tokens, after a drop the best first; any beyond the count
    counts: tuple[int, ...]  # vision tokens left of each image
    samples: tuple[int, ...]  # sample of each image
    others: torch.Tensor  # (B, O) int64 places of text and newlines; any beyond the count
    other_counts: tuple[int, ...]  # text and newline rows of each sample
    ranking: torch.Tensor  # (B, R) int64 which of the others rank vision tokens
    ranking_valid: torch.Tensor  # (B, R) bool

    @property
    def sizes(self) -> list[int]:
        """Real rows of each sample."""
        sizes = list(self.other_counts)
        for sample, count in zip(self.samples, self.counts, strict=True):
            sizes[sample] += count
        return sizes

    @property
    def padded(self) -> bool:
        """Whether any row is padding: samples may all be shorter than the batch is wide."""
        return any(size < self.index.shape[1] for size in self.sizes)

    @property
    def ranking_places(self) -> torch.Tensor:
        """(B, R) int64 places of the ranking rows."""
        return self.others.gather(1, self.ranking)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """values (B, L, …) of any dtype → (B, L', …)."""
        return gather_rows(values, self.index)

    def scatter(self, values: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
        """The inverse of `gather`: `into` (B, L, D), in which these rows take `values` (B, L', D) of its dtype."""
        place = self.index.masked_fill(~self.valid, into.shape[1])  # padding goes behind, and is cut off
        room = torch.cat([into, into.new_zeros(len(into), 1, into.shape[2])], 1)
        return room.scatter(1, place[..., None].expand_as(values), values)[:, :-1]

    def vision_values(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (B, L') of any dtype, those of each image's vision tokens (I, N); any beyond the count."""
        return values[self._sample_of_image(values.device)].gather(1, self.vision)

    def keep_top(self, scores: torch.Tensor, counts: Sequence[int]) -> tuple[RowSubset, torch.Tensor]:
        """Keep each image's best vision tokens and all other rows, in reading order and at their old positions.

        A sample of a text row, four vision tokens, their newline and a text row, of which two vision tokens are kept
        while another sample keeps one row more:

            place now       0    1    2    3    4    5    6
            row             t   v0   v1   v2   v3    n    t
            score               .2   .9   .1   .5              the best are at places 2 and 4 (`best`)
            stays           1    0    1    0    1    1    1    (`_mark`)
            place then      1    -    2    -    3    4    5    padding is on the left (`new_place`)

            place then      0    1    2    3    4    5
            place now       -    0    2    4    5    6         the other way round (`old_place`)

        Args:
            scores: (I, N) float; ties go to the vision token that `vision` names first.
            counts: how many to keep of each image, at most as many as there are.

        Returns the rows that are left, and (B, new L') int64 their places before.
        """
        scores = scores.masked_fill(~first_columns(self.counts, scores), -torch.inf)
        ranked = self.vision.gather(1, scores.argsort(dim=1, descending=True, stable=True))
        best = ranked[:, : max(counts, default=0)]
        fewer = replace(self, counts=tuple(counts))  # its tensors follow
        old_place, valid, new_place = pack_right(self._mark(best, counts), max(fewer.sizes))
        kept = replace(
            fewer,
            index=self.index.gather(1, old_place),
            valid=valid,
            position_ids=self.position_ids.gather(1, old_place),
            vision=new_place[self._sample_of_image(best.device)].gather(1, best),
            others=new_place.gather(1, self.others),
        )
        return kept, old_place

    def compacted(self) -> RowSubset:
        """The same rows at positions counted anew."""
        return replace(self, position_ids=count_positions(self.valid))

    def _mark(self, vision: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """(B, L') bool, True at text, newlines and the first counts[i] places of vision (I, n) of each image i."""
        size = self.index.shape[1]
        marked = self.valid.new_zeros(len(self.valid), size + 1)  # padding marks the last column, which is cut off
        others = self.others.masked_fill(~first_columns(self.other_counts, self.others), size)
        marked = marked.scatter(1, others, True)
        vision = vision.masked_fill(~first_columns(counts, vision), size)
        marked[self._sample_of_image(vision.device)[:, None], vision] = True
        return marked[:, :size]

    def _sample_of_image(self, device: torch.device) -> torch.Tensor:
        """`samples` as a tensor (I,) int64."""
        return torch.tensor(self.samples, device=device)


def first_columns(counts: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Bool, of the shape of `like` (n, columns): in row i, the first counts[i] are True."""
    columns = torch.arange(like.shape[1], device=like.device)
    return columns < torch.tensor(tuple(counts), device=like.device)[:, None]


def pack_right(chosen: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move the chosen columns of (B, L') bool to the end, in their order, and keep `size` columns, at least as many as
    are chosen in any row.

    Returns (B, size) int64 the old column of each new one (0 at padding), (B, size) bool which are no padding, and
    (B, L') int64 the new column of each chosen one; any where not chosen.
    """
    old = chosen.int().argsort(dim=1, stable=True)[:, -size:]
    real = chosen.gather(1, old)
    padding = size - chosen.sum(1, keepdim=True)
    new = padding + chosen.cumsum(1) - 1
    return old.masked_fill(~real, 0), real, new.clamp(min=0)


def _candidates(layout: Layout, crops_of_set: tuple[int, ...]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Sets of vision tokens, each of a number of crops that follow each other: (sets, N) int64 rows within the sample,
    0 beyond a set's count, and the counts."""
    rows = (layout.vision_rows % layout.length).split(crops_of_set)
    if layout.present is None:
        found = [of_set.flatten() for of_set in rows]
    else:
        found = [of_set[there] for of_set, there in zip(rows, layout.present.split(crops_of_set), strict=True)]
    return pad_sequence(found, batch_first=True), tuple(map(len, found))


def all_rows(layout: Layout, device: torch.device, per_crop: bool = False) -> RowSubset:
    """All rows of a layout, tensors on `device`. The candidates of an image, over all its crops, are one set; with
    `per_crop` those of each crop are."""
    others, other_valid = pack_left(layout.valid & ~layout.is_vision)
    ranks = (layout.ranking_rows & layout.valid).gather(1, others) & other_valid
    ranking, ranking_valid = pack_left(ranks)
    vision, counts = _candidates(layout, (1,) * len(layout.newline_rows) if per_crop else layout.crops_of_image)
    return RowSubset(
        index=torch.arange(layout.length, device=device).expand_as(layout.position_ids),
        valid=layout.valid.to(device),
        position_ids=layout.position_ids.to(device),
        vision=vision.to(device),
        counts=counts,
        samples=tuple(layout.sample_of_crop.tolist()) if per_crop else layout.sample_of_image,
        others=others.to(device),
        other_counts=tuple(other_valid.sum(1).tolist()),
        ranking=ranking.to(device),
        ranking_valid=ranking_valid.to(device),
    )


def received_attention(
    layer: Any,
    family: Family,
    hidden: torch.Tensor,
    rows: RowSubset,
    tables: tuple[torch.Tensor, torch.Tensor],
    key: torch.Tensor | None = None,
) -> torch.Tensor:
    """How much attention each vision token gets from the ranking rows in a decoder layer: (I, N) float32, the mean
    over heads and ranking rows of the softmax over all rows that they may see.

    Args:
        layer: Hugging Face's decoder layer, which takes `hidden` (B, L', D).
        tables: rotary cos and sin (B, L', rotary size).
        key: (B, G, L', head size), rotated, where the layer has computed its keys already.
    """
    attention, ranking = layer.self_attn, rows.ranking_places
    cos, sin = tables
    if key is None:
        entering = family.block.enter_attention(layer, hidden)
        query, key, _ = family.project_qkv(attention, entering, lambda rows: gather_rows(rows, ranking))
        key = family.rotate(attention, key, cos, sin)
    else:
        entering = family.block.enter_attention(layer, gather_rows(hidden, ranking))
        query, _, _ = family.project_qkv(attention, entering, lambda rows: rows)
    query = family.rotate(attention, query, gather_rows(cos, ranking), gather_rows(sin, ranking))
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * attention.scaling  # (B, H, R, L')
    cap = family.cap_of_scores(attention)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    seen = torch.arange(hidden.shape[1], device=hidden.device) <= ranking[:, :, None]
    seen = seen & rows.valid[:, None]
    weights = scores.float().masked_fill(~seen[:, None], torch.finfo(torch.float32).min).softmax(-1).mean(1)
    real = rows.ranking_valid[:, :, None]
    received = (weights * real).sum(1) / real.sum(1).clamp(min=1)  # (B, L')
    return rows.vision_values(received)
