"""What the methods share that reduce vision tokens before the LLM: a number to keep, windows on a crop's grid, hidden
states of the tower by number, and attention in plain matrix products, which every back-end and the meta device count
alike.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedConfig

from proxyv.domains import Count
from proxyv.errors import FieldError, UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method
from proxyv.model.vision import has_cls


@dataclass(frozen=True)
class KeepSome(Method):
    """Some `tokens` of each crop stay, in raster order."""

    keeps_grid: ClassVar[bool] = False

    tokens: Count = 64  # as many as VisionZip's default leaves

    def tokens_per_crop(self, tokens: int) -> int:
        return self.tokens

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        if self.tokens > tokens:
            raise FieldError("tokens", f"{self.tokens} must lie between 1 and the {tokens} vision tokens of a crop")


def check_window(window: int, tokens: int, least: int = 1) -> None:
    """Raise UserError where `method.window` does not tile the grid of a crop's `tokens` vision tokens."""
    side = math.isqrt(tokens)
    if window < least or side % window:
        at_least = f" from {least}" if least > 1 else ""
        raise FieldError(
            "window",
            f"{window} does not tile the {side} × {side} vision tokens of a crop; use a divisor of {side}{at_least}",
        )


def check_hidden_states(field: str, layers: Sequence[int], vision_config: PreTrainedConfig) -> None:
    """Raise UserError where a field names no layer, or one that is not among the tower's hidden states. Nothing is
    clipped: another tower's depth needs other numbers."""
    states = vision_config.num_hidden_layers + 1  # with the input of the first block
    for layer in layers:
        if not -states <= layer < states:
            raise FieldError(field, f"{layer} is not a hidden state of the tower; use {-states} to {states - 1}")
    if not layers:
        raise FieldError(field, f"is empty; name at least one hidden state of the tower, 0 to {states - 1}")


def windows(tokens: torch.Tensor, size: int) -> torch.Tensor:
    """tokens (C, P, D) in raster order → (C, P / size², size², D): windows in raster order, and the members of each."""
    count = math.isqrt(tokens.shape[1]) // size
    grid: torch.Tensor = tokens.unflatten(1, (count, size, count, size))  # window row, row, window column, column
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, real: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of projected rows, of which there are N sets; softmax in float32.

    Args:
        query: (N, Q, D), heads side by side; key, value: (N, K, D), all of one dtype.
        real: (N, K) bool, False at keys that are padding; None: none are.

    Returns (N, Q, D) of that dtype.
    """
    query, key, value = (rows.unflatten(-1, (heads, -1)).transpose(1, 2) for rows in (query, key, value))
    scores = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).float()
    if real is not None:
        scores = scores.masked_fill(~real[:, None, None], -torch.inf)
    attended: torch.Tensor = scores.softmax(-1).to(value.dtype) @ value
    return attended.transpose(1, 2).flatten(2)


def check_cls_attention(config: ProxyVConfig, method: str, after_features: int) -> None:
    """Raise UserError where a tower has no CLS token, or not the block whose attention `method` reads.

    Args:
        after_features: 0 for the block whose output the features are, 1 for the next.
    """
    tower = config.vision_config
    if not has_cls(tower):
        raise FieldError("name", f"{method} ranks by a CLS token, {tower.model_type} has none; use a CLIP tower")
    blocks = tower.num_hidden_layers
    block = config.feature_layer % (blocks + 1) - 1 + after_features
    if not 0 <= block < blocks:
        low, high = 1 - after_features, blocks - after_features
        raise UserError(
            f"vision.feature_layer: {config.feature_layer} leaves no tower block whose attention {method} could read; "
            f"use hidden state {low} to {high}"
        )
