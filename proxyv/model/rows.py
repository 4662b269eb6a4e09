"""Choosing rows: gather them by index, move them to the front, count their positions. Letters as in `proxyv.model`."""

from __future__ import annotations

import torch


def gather_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values (B, L, …), index (B, K) int64 within the sample → (B, K, …), on the device of `values`."""
    index = index.view(*index.shape, *[1] * (values.ndim - 2)).to(values.device)
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def pack_left(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen rows of each sample moved to the front, in their order.

    Args:
        chosen: (B, L) bool.

    Returns (B, K) int64, the rows within the sample, and (B, K) bool, False at padding on the right; K is the largest
    number of rows chosen in a sample, at least 1.
    """
    count = max(int(chosen.sum(1).max()), 1)
    index = (~chosen).int().argsort(dim=1, stable=True)[:, :count]
    return index, chosen.gather(1, index)


def count_positions(valid: torch.Tensor) -> torch.Tensor:
    """(B, L) bool, False at padding → (B, L) int64: the real rows counted from 0; 0 at padding before them."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)
