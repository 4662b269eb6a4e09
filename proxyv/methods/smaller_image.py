"""Smaller image: fewer crops or a coarser feature grid, as a control for methods that choose.

Paper: average pooling is the plain baseline of LLaVA-STF (arXiv 2506.07138), a limit on crops that of any-resolution
models (arXiv 2505.15816, "max_num_image_crops").
Deviations: pooling comes before the projector, which so sees what a tower at lower resolution might give it; images
are fitted to a smaller grid of crops, where the public code cuts no image differently for its limit. An image for
which no grid is small enough is the whole image alone, in one crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from proxyv.domains import Count
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import windows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.vision import TowerView


@dataclass(frozen=True)
class SmallerImage(Method):
    """The mean of each `pool` × `pool` block of features, of at most `max_crops` crops (null: as the recipe says)."""

    name: ClassVar[str] = "smaller_image"
    needs: ClassVar[tuple[str, ...]] = ("grid",)

    pool: Count = 2
    max_crops: Count | None = None  # the whole image is one of them

    def limit_grid(self, grid: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        if self.max_crops is None:
            return grid
        return [(columns, rows) for columns, rows in grid if 1 + columns * rows <= self.max_crops]

    def tokens_per_crop(self, tokens: int) -> int:
        return tokens // self.pool**2

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        side = math.isqrt(tokens)
        if side % self.pool:
            raise FieldError(
                "pool",
                f"{self.pool} does not divide the {side} × {side} vision tokens of a crop; use a divisor of {side}",
            )

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        return VisionTokens(windows(view.patches(), self.pool).mean(2))
