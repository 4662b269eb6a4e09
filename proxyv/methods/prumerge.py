"""PruMerge and PruMerge+: keep the patches that the CLS token attends to far more than to others, merge the rest in.

Paper: "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", arXiv 2403.15388. Source of
the details: the authors' public code (github.com/42Shawn/LLaVA-PruMerge). Queries and keys of the block after the
features, not split into heads, give the CLS token's attention. As many patches stay per crop as are outliers
(attention above Q3 + 1.5 · IQR) on average over the image's crops; PruMerge+ adds evenly spaced ones, closer together
the more outliers there are. To each kept patch its nearest neighbours by keys are added, times their own attention; one
more token is the sum of what was not kept, times attention. Tokens stand by falling attention, then the spaced ones in
raster order, then the sum.
Deviations: images of a batch may keep different numbers (the public code takes one image at a time); at least one
patch of each crop stays (without outliers the public code divides by zero); where all stay there is no sum. A spaced
patch that is among the best already counts once. The public code does so with outliers; at a fixed share, with which
it trains PruMerge+, such a patch stands there twice, and for each the first patch that is not kept is left out of the
sum and of the neighbours: here the next best take the second places, so that counts are the same. On the meta device,
where attention has no values, a crop keeps the published average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch.nn import functional as F

from proxyv.domains import PositiveShare, Size
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import check_cls_attention
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import gather_rows
from proxyv.model.vision import TowerView

# Share of a crop's tokens that enters the LLM on average: 32 and 144 of 576 (arXiv 2403.15388, its results' tables).
TYPICAL_SHARE = {"plain": 32 / 576, "plus": 144 / 576}


class Quota(NamedTuple):
    """How many patches of a crop stay: the best, and the evenly spaced `spaced` beside them."""

    best: int
    spaced: range


class Kept(NamedTuple):
    """Which patches of each crop stay."""

    order: torch.Tensor  # (C, n) int64, which comes first, second, …
    mask: torch.Tensor  # (C, P) bool
    counts: torch.Tensor | None  # (C,) int64, how many where crops differ; None: all n


@dataclass(frozen=True)
class PruMerge(Method):
    """`fixed_ratio` is the share that the best patches are of a crop; null: as many as are outliers."""

    name: ClassVar[str] = "prumerge"
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "keys")
    keeps_grid: ClassVar[bool] = False

    plus: bool = False
    fixed_ratio: PositiveShare | None = None
    neighbours: Size = 32

    def tokens_per_crop(self, tokens: int) -> int:
        quota = self.common_quota(tokens, has_values=True)
        if quota is not None:
            kept = quota.best + len(quota.spaced)
        else:  # no more than a quarter lies above the third quartile; spaced patches may be all the rest
            kept = tokens if self.plus else -(-tokens // 4)
        return min(kept + 1, tokens)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_cls_attention(config, self.name, after_features=1)
        if self.neighbours >= tokens:
            raise FieldError(
                "neighbours", f"{self.neighbours} must lie between 0 and {tokens - 1}, the other tokens of a crop"
            )

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        patches = view.patches()  # (C, P, T)
        with torch.no_grad():
            block = view.feature_block + 1
            keys, query = view.keys(block), view.cls_query(block)
            scores = torch.einsum("cd,cnd->cn", query, keys) * query.shape[-1] ** -0.5
            attention = scores.float().softmax(-1)[:, 1:]  # (C, P)
            kept = self.keep(attention, prompt.layout.crops_of_image)
            weights = self.neighbour_weights(attention, F.normalize(keys[:, 1:], dim=-1), kept.order)
        merged = gather_rows(patches, kept.order) + weights.to(patches.dtype) @ patches
        rest = (attention * ~kept.mask).to(patches.dtype)[:, None] @ patches  # (C, 1, T)
        return with_rest(merged, rest, kept.counts, patches.shape[1])

    def neighbour_weights(self, attention: torch.Tensor, unit_keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """(C, n, P) float32: the attention of the patches nearest to each kept one, 0 elsewhere.

        Args:
            attention: (C, P) float32; unit_keys: (C, P, T) of length 1; kept: (C, n) int64.
        """
        likeness = (gather_rows(unit_keys, kept) @ unit_keys.transpose(1, 2)).scatter(2, kept[..., None], -torch.inf)
        nearest = likeness.topk(self.neighbours, -1).indices
        return attention[:, None] * torch.zeros_like(likeness).scatter(2, nearest, 1.0)

    def keep(self, attention: torch.Tensor, crops_of_image: tuple[int, ...]) -> Kept:
        """From the attention (C, P) float32 of all crops, and the number of crops of each image."""
        tokens, device = attention.shape[1], attention.device
        quota = self.common_quota(tokens, has_values=device.type != "meta")
        if quota is None:
            images = attention.split(crops_of_image)
            quotas = [quota for crops in images for quota in [self.adaptive_quota(crops)] * len(crops)]
        else:
            quotas = [quota] * len(attention)
        spaced = torch.zeros(len(quotas), tokens, dtype=torch.bool)
        for crop, of_crop in enumerate(quotas):
            spaced[crop, list(of_crop.spaced)] = True
        spaced = spaced.to(device)
        # With a common quota the best are chosen beside the spaced ones; else a patch may be both, and counts once.
        ranked = attention if quota is None else attention.masked_fill(spaced, -1)
        rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(1)
        best = rank < torch.tensor([of_crop.best for of_crop in quotas]).to(device)[:, None]
        mask, place = best | spaced, torch.arange(tokens, device=device)
        order = torch.where(best, rank, place + torch.where(spaced, tokens, 2 * tokens)).argsort(1)
        if quota is not None:
            return Kept(order[:, : quota.best + len(quota.spaced)], mask, None)
        counts = mask.sum(1)
        return Kept(order[:, : int(counts.max())], mask, counts)

    def adaptive_quota(self, attention: torch.Tensor) -> Quota:
        """From the attention (crops, P) float32 of one image."""
        crops, tokens = attention.shape
        first, third = attention.flatten().quantile(attention.new_tensor([0.25, 0.75]))
        outliers = max(int((attention > third + 1.5 * (third - first)).sum()), crops)
        step = max(attention.numel() // outliers // 3, 1)
        return Quota(outliers // crops, range(0, tokens - 1, step) if self.plus else range(0))

    def common_quota(self, tokens: int, has_values: bool) -> Quota | None:
        """That of every crop, or None where attention decides."""
        if self.fixed_ratio is not None:  # as many spaced patches as best ones, or nearly
            step = int(1 / self.fixed_ratio)
            spaced = range(step // 2, tokens - 1, step) if self.plus else range(0)
            return Quota(min(max(int(tokens * self.fixed_ratio), 1), tokens - len(spaced)), spaced)
        if has_values:
            return None
        share = TYPICAL_SHARE["plus" if self.plus else "plain"]
        return Quota(max(round(tokens * share) - 1, 1), range(0))  # one more token is the sum of the rest


def with_rest(merged: torch.Tensor, rest: torch.Tensor, counts: torch.Tensor | None, tokens: int) -> VisionTokens:
    """Put the rest (C, 1, T) behind the kept tokens of each crop (C, n, T), unless all `tokens` of it are kept; counts
    (C,) int64 as in `Kept`."""
    values = torch.cat([merged, rest], 1)
    if counts is not None:
        place = torch.arange(values.shape[1], device=counts.device)
        behind = (place >= counts[:, None])[..., None]
        values = torch.where(behind, rest * (place == counts[:, None])[..., None], values)
        counts = (counts + 1).clamp(max=tokens)
    return VisionTokens(values[:, :tokens], counts)
