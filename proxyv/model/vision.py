"""From crops to features: the vision tower's patch features and the projector into the LLM's width.

Letters as in `proxyv.model`; H are the tower's heads here. A crop has P patches, one for each vision token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import GELUActivation


class Projector(nn.Module):
    """Linear, exact GELU, Linear: tower width T → LLM width D (LLaVA-1.5's `mlp2x_gelu`, arXiv 2310.03744)."""

    def __init__(self, tower_size: int, hidden_size: int, inner_size: int | None = None):
        super().__init__()
        self.up = nn.Linear(tower_size, inner_size or hidden_size)
        self.act = GELUActivation()
        self.down = nn.Linear(inner_size or hidden_size, hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(…, T) → (…, D)."""
        projected: torch.Tensor = self.down(self.act(self.up(features)))
        return projected


def grid_side(vision_config: PreTrainedConfig) -> int:
    """Patches per side of a square crop."""
    return int(vision_config.image_size) // int(vision_config.patch_size)


def patch_features(tower: PreTrainedModel, pixel_values: torch.Tensor, feature_layer: int) -> torch.Tensor:
    """Patch features (C, P, T) in raster order; arguments as `TowerView`'s."""
    return TowerView(tower, pixel_values, feature_layer).patches()


def tower_blocks(tower: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of a CLIP or SigLIP tower, whichever way its release of transformers nests them."""
    blocks: nn.ModuleList = getattr(tower, "vision_model", tower).encoder.layers
    return blocks


def has_cls(vision_config: PreTrainedConfig) -> bool:
    """Whether a tower puts a CLS token before its patches: CLIP does, SigLIP does not."""
    return not str(vision_config.model_type).startswith("siglip")


class TowerView:
    """One pass of a vision tower, and what a method may want to know of it.

    Attention and keys are computed again from the hidden states, and only where a method reads them: the tower itself
    keeps its fast attention.

    Args:
        tower: a Hugging Face CLIP or SigLIP vision model.
        pixel_values: (C, 3, S, S) normalised crops, in the tower's dtype.
        feature_layer: index into the hidden states (−2: before the last block, as in LLaVA).
    """

    def __init__(self, tower: PreTrainedModel, pixel_values: torch.Tensor, feature_layer: int):
        self.tower = tower
        states: tuple[torch.Tensor, ...] = tower(pixel_values, output_hidden_states=True).hidden_states
        self.hidden_states = states  # blocks + 1, each (C, 1 + P, T); (C, P, T) without a CLS token
        self.feature_layer = feature_layer % len(states)
        self.special = states[0].shape[1] - grid_side(tower.config) ** 2  # 1 with a CLS token, else 0

    def patches(self, layer: int | None = None) -> torch.Tensor:
        """(C, P, T) patches of the hidden states at `layer` (None: the feature layer), CLS dropped."""
        return self.hidden_states[self.feature_layer if layer is None else layer][:, self.special :]

    def cls(self, layer: int | None = None) -> torch.Tensor:
        """(C, T) the CLS token of the hidden states at `layer` (None: the feature layer)."""
        return self.hidden_states[self.feature_layer if layer is None else layer][:, 0]

    @property
    def feature_block(self) -> int:
        """The block whose output the features are."""
        return self.feature_layer - 1

    def cls_query(self, block: int) -> torch.Tensor:
        """(C, T) query of the CLS token in a block, unscaled, heads side by side."""
        layer: Any = tower_blocks(self.tower)[block]
        query: torch.Tensor = layer.self_attn.q_proj(layer.layer_norm1(self.hidden_states[block][:, 0]))
        return query

    def keys(self, block: int) -> torch.Tensor:
        """(C, 1 + P, T) keys of all tokens in a block, heads side by side."""
        layer: Any = tower_blocks(self.tower)[block]
        keys: torch.Tensor = layer.self_attn.k_proj(layer.layer_norm1(self.hidden_states[block]))
        return keys

    def cls_attention(self, block: int, keys: torch.Tensor | None = None) -> torch.Tensor:
        """(C, H, 1 + P) what the CLS token attends to in a block; `keys` (C, 1 + P, T) if they are there already."""
        heads = self.tower.config.num_attention_heads
        keys = self.keys(block) if keys is None else keys
        query: torch.Tensor = self.cls_query(block).unflatten(-1, (heads, -1))  # (C, H, head size)
        scores = torch.einsum("chs,cnhs->chn", query, keys.unflatten(-1, (heads, -1)))
        scale: float = query.shape[-1] ** -0.5
        return (scores * scale).float().softmax(-1).to(keys.dtype)
