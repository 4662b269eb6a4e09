"""From crops to features: the vision tower's patch features and the projector into the LLM's width."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import GELUActivation


class Projector(nn.Module):
    """Linear, exact GELU, Linear: tower width → LLM width (LLaVA-1.5's `mlp2x_gelu`, arXiv 2310.03744)."""

    def __init__(self, tower_size: int, hidden_size: int):
        super().__init__()
        self.up = nn.Linear(tower_size, hidden_size)
        self.act = GELUActivation()
        self.down = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(…, tower_size) → (…, hidden_size)."""
        return self.down(self.act(self.up(features)))


def grid_side(vision_config: PreTrainedConfig) -> int:
    """Patches per side of a square crop."""
    return int(vision_config.image_size) // int(vision_config.patch_size)


def patch_features(tower: PreTrainedModel, pixel_values: torch.Tensor, feature_layer: int) -> torch.Tensor:
    """Patch features of a Hugging Face CLIP or SigLIP tower.

    Args:
        tower: a vision model that returns `hidden_states`.
        pixel_values: (C, 3, S, S) normalised crops.
        feature_layer: index into the hidden states (−2: before the last block, as in LLaVA).

    Returns (C, P, tower_size) in raster order; a leading CLS token is dropped.
    """
    hidden = tower(pixel_values, output_hidden_states=True).hidden_states[feature_layer]
    return hidden[:, hidden.shape[1] - grid_side(tower.config) ** 2 :]
