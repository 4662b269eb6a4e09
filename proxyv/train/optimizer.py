"""The optimisers a stage may name."""

from __future__ import annotations

from typing import Any

import torch

from proxyv.config import StageSpec

OPTIMIZERS = ("adamw",)


def make_optimizer(groups: list[dict[str, Any]], spec: StageSpec) -> torch.optim.Optimizer:
    """The stage's optimiser for the groups of `parameter_groups`."""
    return torch.optim.AdamW(groups, betas=(0.9, spec.beta2))
