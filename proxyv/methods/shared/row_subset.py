"""Which rows are still there, for the methods that drop vision tokens between decoder layers, and how tokens are
ranked by the attention that text gives them.

Letters: B samples, Q rows per sample (padded on the left), I images of the batch (or crops, where each is ranked for
itself), K vision tokens of an image that are left (padded), O rows per sample that are never dropped (padded), A
ranking rows per sample (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from proxyv.model.families import Family, rotate
from proxyv.model.layout import Layout
from proxyv.model.rows import count_positions, gather_rows, pack_left


@dataclass(frozen=True)
class RowSubset:
    """Numbers of rows are known from the batch alone, which rows is not: nothing here waits for the device, and all
    of it works on shapes."""

    index: torch.Tensor  # (B, Q) int64 row of the layout, within the sample; any at padding
    valid: torch.Tensor  # (B, Q) bool
    position_ids: torch.Tensor  # (B, Q) int64
    vision: torch.Tensor  # (I, K) int64 place of each vision token among the Q rows; any beyond an image's count
    counts: tuple[int, ...]  # vision tokens left of each image
    samples: tuple[int, ...]  # sample of each image
    others: torch.Tensor  # (B, O) int64 places of text and newlines; any beyond a sample's count
    other_counts: tuple[int, ...]  # text and newline rows of each sample
    ranking: torch.Tensor  # (B, A) int64 which of the others rank vision tokens
    ranking_valid: torch.Tensor  # (B, A) bool

    @property
    def sizes(self) -> list[int]:
        """Real rows of each sample."""
        sizes = list(self.other_counts)
        for sample, count in zip(self.samples, self.counts, strict=True):
            sizes[sample] += count
        return sizes

    @property
    def padded(self) -> bool:
        """Whether any row is padding."""
        return len(set(self.sizes)) > 1

    @property
    def ranking_places(self) -> torch.Tensor:
        """(B, A) places of the ranking rows."""
        return self.others.gather(1, self.ranking)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(B, rows of the layout, …) → (B, Q, …)."""
        return gather_rows(values, self.index)

    def scatter(self, values: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
        """The inverse of `gather`: `into` (B, rows of the layout, D), where these rows take `values` (B, Q, D)."""
        place = self.index.masked_fill(~self.valid, into.shape[1])  # padding goes behind, and is cut off
        room = torch.cat([into, into.new_zeros(len(into), 1, into.shape[2])], 1)
        return room.scatter(1, place[..., None].expand_as(values), values)[:, :-1]

    def vision_values(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (B, Q), those of each image's vision tokens (I, K)."""
        return values[torch.tensor(self.samples, device=values.device)].gather(1, self.vision)

    def keep_top(self, scores: torch.Tensor, counts: Sequence[int]) -> tuple[RowSubset, torch.Tensor]:
        """Keep each image's best vision tokens and all other rows, in reading order and at their old positions.

        Args:
            scores: (I, K); ties go to the earlier token.
            counts: how many to keep of each image, at most as many as there are.

        Returns the rows that are left, and (B, new Q) int64 their places before.
        """
        scores = scores.masked_fill(~self._real(self.counts, scores), -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)
        width, others = max(counts, default=0), self.others.shape[1]
        chosen = self.vision.gather(1, order[:, :width])
        samples = torch.tensor(self.samples, device=scores.device)
        in_sample = torch.arange(len(samples), device=scores.device) - torch.searchsorted(samples, samples)
        sample, column = samples[:, None], others + in_sample[:, None] * width
        column = column + torch.arange(width, device=scores.device)
        # One column for whatever may stay; −1 where nothing does, which sorts to the left.
        columns = others + width * max(self.samples.count(s) for s in self.samples)
        place = torch.full((len(self.other_counts), columns), -1, device=scores.device)
        place[:, :others] = torch.where(self._real(self.other_counts, self.others), self.others, -1)
        place[sample, column] = torch.where(self._real(counts, chosen), chosen, -1)
        place, permutation = place.sort(dim=1)
        kept = replace(self, counts=tuple(counts))
        size = max(kept.sizes)
        back = (permutation.argsort(1) - (columns - size)).clamp(min=0)
        old = place[:, -size:].clamp(min=0)
        kept = replace(
            kept,
            index=self.index.gather(1, old),
            valid=place[:, -size:] >= 0,
            position_ids=self.position_ids.gather(1, old),
            vision=back[sample, column],
            others=back[:, :others],
        )
        return kept, old

    def compacted(self) -> RowSubset:
        """The same rows at positions counted anew."""
        return replace(self, position_ids=count_positions(self.valid))

    @staticmethod
    def _real(counts: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Bool, of the shape of `like`: in row i, the first counts[i] are True."""
        columns = torch.arange(like.shape[1], device=like.device)
        return columns < torch.tensor(tuple(counts), device=like.device)[:, None]


def all_rows(layout: Layout, device: torch.device, per_crop: bool = False) -> RowSubset:
    """All rows of a layout. Vision tokens of an image are one set of candidates, over all its crops, or those of a
    crop are."""
    others, other_valid = pack_left(layout.valid & ~layout.is_vision)
    ranks = (layout.ranking_rows & layout.valid).gather(1, others) & other_valid
    ranking, ranking_valid = pack_left(ranks)
    present = layout.present
    full = torch.full_like(layout.newline_rows, layout.vision_rows.shape[1])
    tokens_of_crop = (full if layout.counts is None else layout.counts).tolist()
    together = (1,) * len(tokens_of_crop) if per_crop else layout.crops_of_image
    samples = tuple(layout.sample_of_crop.tolist()) if per_crop else layout.sample_of_image
    ends = torch.tensor(together).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    counts = tuple(sum(tokens_of_crop[a:b]) for a, b in zip(starts, ends, strict=True))
    rows = layout.vision_rows % layout.length
    vision = rows.new_zeros(len(counts), max(counts))
    for image, (a, b) in enumerate(zip(starts, ends, strict=True)):
        of_image = rows[a:b].flatten() if present is None else rows[a:b][present[a:b]]
        vision[image, : counts[image]] = of_image
    index = torch.arange(layout.length, device=rows.device).expand_as(layout.position_ids)
    return RowSubset(
        index.to(device),
        layout.valid.to(device),
        layout.position_ids.to(device),
        vision.to(device),
        counts,
        samples,
        others.to(device),
        tuple(other_valid.sum(1).tolist()),
        ranking.to(device),
        ranking_valid.to(device),
    )


def received_attention(
    layer: Any,
    family: Family,
    hidden: torch.Tensor,
    rows: RowSubset,
    tables: tuple[torch.Tensor, torch.Tensor],
    key: torch.Tensor | None = None,
) -> torch.Tensor:
    """How much attention each vision token gets from the ranking rows in a decoder layer: (I, K) float32, the mean
    over heads and ranking rows of the softmax over all rows that they may see.

    Args:
        layer: Hugging Face's decoder layer, which takes `hidden` (B, Q, D).
        tables: rotary cos and sin (B, Q, rotary size).
        key: (B, G, Q, head size), where the layer has computed its keys already.
    """
    attention, ranking = layer.self_attn, rows.ranking_places
    cos, sin = tables
    if key is None:
        query, key, _ = family.project_qkv(
            attention, layer.input_layernorm(hidden), lambda normed: gather_rows(normed, ranking)
        )
        key = rotate(key, cos, sin)
    else:
        query, _, _ = family.project_qkv(
            attention, layer.input_layernorm(gather_rows(hidden, ranking)), lambda normed: normed
        )
    query = rotate(query, gather_rows(cos, ranking), gather_rows(sin, ranking))
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * attention.scaling  # (B, H, A, Q)
    seen = torch.arange(hidden.shape[1], device=hidden.device) <= ranking[:, :, None]
    seen = seen & rows.valid[:, None]
    weights = scores.float().masked_fill(~seen[:, None], torch.finfo(torch.float32).min).softmax(-1).mean(1)
    real = rows.ranking_valid[:, :, None]
    received = (weights * real).sum(1) / real.sum(1).clamp(min=1)  # (B, Q)
    return rows.vision_values(received)
