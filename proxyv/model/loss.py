"""The training loss. Letters as in `proxyv.model`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from proxyv.constants import IGNORE_INDEX


def supervised_loss(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    labels: torch.Tensor,
    num_items: torch.Tensor | int | None,
) -> torch.Tensor:
    """Mean cross entropy over the supervised next tokens, logits in float32 and only where needed.

    Args:
        head: (…, D) → (…, V).
        hidden: (B, L, D), the LLM's last hidden states.
        labels: (B, L) int64, −100 where not supervised; row i + 1 is what row i predicts.
        num_items: divide by this instead of the number of supervised tokens here.

    Returns a float32 scalar.
    """
    targets = labels[:, 1:].to(hidden.device)
    keep = targets != IGNORE_INDEX
    if not bool(keep.any()):  # nothing to learn here, but every rank must take part in the exchange
        nothing: torch.Tensor = 0.0 * head(hidden[:, :1]).float().sum()
        return nothing
    logits = head(hidden[:, :-1][keep]).float()
    if num_items is None:
        return nn.functional.cross_entropy(logits, targets[keep])
    total = nn.functional.cross_entropy(logits, targets[keep], reduction="sum")
    return total / torch.as_tensor(num_items, device=total.device)
