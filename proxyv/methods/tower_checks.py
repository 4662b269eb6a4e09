"""What methods that look into the tower ask of it."""

from __future__ import annotations

from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.vision import has_cls


def check_cls_attention(config: ProxyVConfig, method: str, after_features: int) -> None:
    """Raise UserError where a tower has no CLS token, or not the block whose attention `method` reads.

    Args:
        after_features: 0 for the block whose output the features are, 1 for the next.
    """
    tower = config.vision_config
    if not has_cls(tower):
        raise UserError(f"method.name: {method} ranks by a CLS token, {tower.model_type} has none; use a CLIP tower")
    blocks = tower.num_hidden_layers
    block = config.feature_layer % (blocks + 1) - 1 + after_features
    if not 0 <= block < blocks:
        low, high = 1 - after_features, blocks - after_features
        raise UserError(
            f"vision.feature_layer: {config.feature_layer} leaves no tower block whose attention {method} could read; "
            f"use hidden state {low} to {high}"
        )
