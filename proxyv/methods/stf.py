"""LLaVA-STF: features of several tower layers are fused, then each window of patches becomes one long vector.

Paper: "Learning Compact Vision Tokens for Efficient Large Multimodal Models", arXiv 2506.07138. Source of the
details: the authors' public code (github.com/visresearch/LLaVA-STF). Multi-block token fusion (MBTF) maps the patches
of eight hidden states, side by side, back to the tower's width through a two-layer MLP; spatial token fusion (STF)
concatenates the channels of each window; a wide projector takes those to the LLM. Both are trained in both stages.
Deviations: works on every crop by itself (the public code has single images only). The published hidden states are
those of a tower of 24 blocks; a tower that lacks one of them is refused, not clipped. The projector differs from the
stock one, so a model that was trained with another method starts it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from proxyv.domains import Count, Index
from proxyv.methods.shared.before_llm import check_hidden_states, check_window, windows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.vision import Projector, TowerView


@dataclass(frozen=True)
class STF(Method):
    """One vision token per `window` × `window` patches; `fuse_layers` index the tower's hidden states, and stand in
    for the model's own feature layer."""

    name: ClassVar[str] = "stf"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("reducer",)
    needs: ClassVar[tuple[str, ...]] = ("tower_layers", "grid")

    window: Count = 2
    fuse_layers: tuple[Index, ...] = (-2, 21, 18, 15, 12, 9, 6, 3)
    inner_ratio: Count = 4  # inner width of the projector / its input width, window² · tower width

    def tokens_per_crop(self, tokens: int) -> int:
        return tokens // self.window**2

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_window(self.window, tokens)
        check_hidden_states("fuse_layers", self.fuse_layers, config.vision_config)

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        size = model.config.vision_config.hidden_size
        model.reducer = BlockFusion(size, len(self.fuse_layers))
        long = size * self.window**2
        model.projector = Projector(long, model.config.text_config.hidden_size, self.inner_ratio * long)

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        fused = model.reducer(torch.cat([view.patches(layer) for layer in self.fuse_layers], -1))
        # Channels first, then the window's rows and columns, as a convolution reads them.
        return VisionTokens(windows(fused, self.window).transpose(2, 3).flatten(2))


class BlockFusion(nn.Module):
    """Patches of several hidden states, side by side → the tower's width, through four times that width."""

    def __init__(self, size: int, layers: int):
        super().__init__()
        self.up = nn.Linear(layers * size, 4 * size)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * size, size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features (C, P, layers · T) → (C, P, T)."""
        fused: torch.Tensor = self.down(self.act(self.up(features)))
        return fused
