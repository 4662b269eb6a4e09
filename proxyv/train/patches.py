"""Which character stands in each patch: the objective that pretrains a tiny tower, in place of CLIP's pretraining."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from proxyv.data.encoding import GLYPHS
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.vision import patch_features


class PatchClassifier(nn.Module):
    """The model's tower and a linear head over characters; the head is thrown away after the stage."""

    def __init__(self, model: ProxyVForConditionalGeneration):
        super().__init__()
        self.tower = model.vision_tower
        self.feature_layer = model.config.feature_layer
        self.head = nn.Linear(model.config.vision_config.hidden_size, len(GLYPHS))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """`loss`, the mean cross entropy of crops (C, 3, S, S) with patch classes (C, P)."""
        logits = self.head(patch_features(self.tower, pixel_values, self.feature_layer))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())}
