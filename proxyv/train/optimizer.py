"""The optimisers a stage may name: AdamW, as the paper uses it, and Muon for those who train from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from proxyv.config import StageSpec
from proxyv.errors import UserError


class MuonAdamW(torch.optim.Optimizer):
    """Muon (github.com/KellerJordan/Muon) for groups with `inner` set, AdamW for the others.

    Muon's update is scaled to the size of AdamW's (arXiv 2502.16982), so one learning rate serves both.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]):
        inner = [group for group in groups if group["inner"]]
        outer = [group for group in groups if not group["inner"]]
        self.parts: list[tuple[bool, torch.optim.Optimizer]] = []
        if inner:
            self.parts.append((True, torch.optim.Muon(inner, adjust_lr_fn="match_rms_adamw")))
        if outer:
            self.parts.append((False, torch.optim.AdamW(outer, betas=betas)))
        # Each part has filled in its own defaults; from here on groups and state live in this object alone, so that
        # schedulers and checkpoints see one ordinary optimiser.
        super().__init__([group for _, part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all groups; a closure is not supported."""
        if closure is not None:
            raise NotImplementedError("MuonAdamW takes no closure")
        for inner, part in self.parts:
            part.param_groups = [group for group in self.param_groups if group["inner"] == inner]
            part.state = self.state
            part.step()


def make_optimizer(groups: list[dict[str, Any]], spec: StageSpec) -> torch.optim.Optimizer:
    """The stage's optimiser for the groups of `parameter_groups`. Raises UserError where torch has no Muon."""
    betas = (0.9, spec.beta2)
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas)
    if not hasattr(torch.optim, "Muon"):
        raise UserError(f"optimizer: 'muon' needs torch 2.9 or later, here is {torch.__version__}; use adamw")
    return MuonAdamW(groups, betas)
