"""VisionZip: the patches that the tower's CLS token attends to most stay, the others are merged into a few.

Paper: "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467. Source
of the details: the authors' public code (github.com/dvlab-research/VisionZip). Per crop, in the block whose output
the features are: attention summed over heads ranks the patches; keys averaged over heads say which of the others are
alike. Evenly spaced ones of those are targets, and each takes up the mean of the tokens most like it: the sum of both,
not an average, as published.
Deviations: a crop's tokens are where its patches were, then its newline (the public code sorts the dominant patches
of all crops along the stitched image, and leaves newlines out); lists of images work (the public path for them
uses names that it never set); attention of the CLS row alone is computed, so the tower keeps its fast back-end; equal
scores go to the earlier patch. ProxyV's comparison (arXiv 2505.15816) uses 360 + 40 and trains the whole recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from proxyv.domains import Count
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import check_cls_attention
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import gather_rows
from proxyv.model.vision import TowerView


@dataclass(frozen=True)
class VisionZip(Method):
    """`dominant` tokens of each crop, the CLS token among them, then `contextual` merged ones."""

    name: ClassVar[str] = "visionzip"
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "keys")
    keeps_grid: ClassVar[bool] = False

    dominant: Count = 54
    contextual: Count = 10

    def tokens_per_crop(self, tokens: int) -> int:
        return self.dominant + self.contextual

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_cls_attention(config, self.name, after_features=0)
        if self.dominant + self.contextual > tokens:
            raise FieldError(
                "dominant",
                f"{self.dominant} and {self.contextual} contextual tokens are more than the {tokens} "
                "of a crop; lower one of them",
            )

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        patches = view.patches()  # (C, P, T)
        with torch.no_grad():
            keys = view.keys(view.feature_block)
            attention = view.cls_attention(view.feature_block, keys)  # (C, heads, 1 + P)
            order = attention.sum(1)[:, 1:].argsort(dim=1, descending=True, stable=True)
            # In raster order: patches beside the CLS token, one less than `dominant`, and all others.
            dominant, others = (part.sort(dim=1).values for part in order.tensor_split([self.dominant - 1], dim=1))
            alike = F.normalize(keys[:, 1:].unflatten(-1, (attention.shape[1], -1)).mean(2), dim=-1)
        contextual = self.merge_alike(gather_rows(patches, others), gather_rows(alike, others))
        return VisionTokens(torch.cat([view.cls()[:, None], gather_rows(patches, dominant), contextual], 1))

    def merge_alike(self, patches: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
        """R patches (C, R, T) in raster order, and unit vectors (C, R, size) by which they are compared → N contextual
        tokens (C, N, T)."""
        rest, count = patches.shape[1], self.contextual
        step = max(1, rest // count)
        targets = list(range(0, rest, step))[:count]
        merged = sorted(set(range(rest)) - set(targets))
        with torch.no_grad():
            nearest = (alike[:, merged] @ alike[:, targets].transpose(1, 2)).argmax(-1)  # (C, R − N)
            goes_to = (nearest[..., None] == torch.arange(count, device=nearest.device)).to(patches.dtype)
        shares = goes_to / goes_to.sum(1, keepdim=True).clamp(min=1)
        return patches[:, targets] + shares.transpose(1, 2) @ patches[:, merged]
