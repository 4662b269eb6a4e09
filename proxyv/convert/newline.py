"""The newline token: LLaVA's checkpoints lack it, or place it otherwise."""

from __future__ import annotations

import torch

from proxyv.convert.plan import ConversionPlan

NEWLINES_DIFFER = (
    "LLaVA puts no newline, or one per row of patches, where ours puts one per crop: answers differ somewhat until the "
    "model is trained on"
)


def add_fresh_newline(plan: ConversionPlan) -> None:
    """Give the plan a newline of the published initial scale, randn / √D, the same each time."""
    size = plan.model.config.text_config.hidden_size
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * size**-0.5
    plan.fresh["image_newline"] = values
    plan.notes.append("the checkpoint has no newline; it gets a fresh random one, to be trained")
