"""Random: any vision tokens of each crop, as a control for methods that choose.

Paper: the control of "Token Pruning in Multimodal Large Language Models: Are We Solving the Right Problem?",
arXiv 2502.11501, where it beats several published ways to choose.
Deviations: chosen per crop, before the projector; in raster order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from proxyv.domains import Seed
from proxyv.methods.shared.before_llm import KeepSome
from proxyv.model.method import Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import gather_rows
from proxyv.model.vision import TowerView


@dataclass(frozen=True)
class Random(KeepSome):
    """`tokens` of each crop. In training a new draw each time, from torch's own generator; in evaluation a draw that
    depends on `seed` and the crop's number within its image, so batches and repeated passes agree."""

    name: ClassVar[str] = "random"

    seed: Seed = 0

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        patches = view.patches()
        crops, tokens = patches.shape[:2]
        if model.training:
            drawn = torch.rand(crops, tokens, device=patches.device).argsort(1)
        else:
            most = max(prompt.layout.crops_of_image)
            drawn = self.draws(most, tokens)[prompt.layout.crop_in_image.cpu()]
        return VisionTokens(gather_rows(patches, drawn[:, : self.tokens].sort(1).values))

    def draws(self, crops: int, tokens: int) -> torch.Tensor:
        """(crops, tokens) int64, a permutation for crop 0, 1, … of an image; the first depend on no later one."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.stack([torch.randperm(tokens, generator=generator, device="cpu") for _ in range(crops)])
