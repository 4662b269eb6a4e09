"""Uniform: evenly spaced vision tokens of each crop, as a control for methods that choose.

Paper: spatially uniform sampling, as PruMerge+ (arXiv 2403.15388) adds it to what it chooses; here alone.
Deviations: of n of P tokens in raster order, number i is token ⌊(2i + 1) · P / 2n⌋, the middle of the i-th of n equal
stretches (PruMerge+ starts at the first token and stops short of the last).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxyv.methods.shared.before_llm import KeepSome
from proxyv.model.method import Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.vision import TowerView


@dataclass(frozen=True)
class Uniform(KeepSome):
    """`tokens` of each crop, evenly spaced in raster order."""

    name: ClassVar[str] = "uniform"

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        patches = view.patches()
        tokens = patches.shape[1]
        kept = [(2 * i + 1) * tokens // (2 * self.tokens) for i in range(self.tokens)]
        return VisionTokens(patches[:, kept])
