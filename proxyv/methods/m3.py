"""Matryoshka multimodal models (M3): nested scales of average pooling, all trained at once, one chosen at inference.

Paper: "Matryoshka Multimodal Models", ICLR 2025, arXiv 2405.17430. Source of the details: the authors' public code
(github.com/mu-cai/matryoshka-mm). Projected vision tokens of every crop are pooled to each scale in turn; a training
batch runs through the LLM once per scale with the same labels, and its loss is the mean over scales. The published
recipe starts from trained LLaVA weights and trains the tower too; that is for a recipe to say.
Deviations: the scale at inference defaults to 144, where the public code without a scale does not pool at all (576 of
a crop): `scale: 576` does that here. Nothing else differs in the numbers. A text-only batch runs once per scale as
well, though all its passes are equal: all ranks of a sharded run must take the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from proxyv.domains import Count
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import windows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel


@dataclass(frozen=True)
class M3(Method):
    """Training covers all `scales`, in vision tokens per crop; inference uses `scale`, one of them."""

    name: ClassVar[str] = "m3"
    trained: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("grid",)

    scales: tuple[Count, ...] = (1, 9, 36, 144, 576)
    scale: Count = 144

    def tokens_per_crop(self, tokens: int) -> int:
        return self.scale

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        side = math.isqrt(tokens)
        fitting = [part**2 for part in range(1, side + 1) if side % part == 0]
        for scale in self.scales:
            if scale not in fitting:
                raise FieldError(
                    "scales",
                    f"{scale} is no square whose side divides {side}, the side of a crop's grid; choose from {fitting}",
                )
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise FieldError("scales", f"{list(self.scales)} must name at least one scale, and each once")
        if self.scale not in self.scales:
            raise FieldError("scale", f"{self.scale} is not trained; choose from method.scales {list(self.scales)}")

    def merge(self, model: ProxyVPreTrainedModel, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        window = math.isqrt(vision.values.shape[1] // self.scale)
        return vision._replace(values=windows(vision.values, window).mean(2))

    def training_passes(self) -> Sequence[Method]:
        return [replace(self, scale=scale) for scale in self.scales]
