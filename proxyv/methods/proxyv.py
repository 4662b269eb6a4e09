"""ProxyV, spatial: one proxy token per block of vision tokens does the heavy work in their place.

Paper: "Streamline Without Sacrifice - Squeeze out Computation Redundancy in LMM", ICML 2025, arXiv 2505.15816.
Source of the details: the authors' public code at commit 42d6d97, where it and the paper differ.
Deviations: the last layer updates no vision tokens and runs no proxies, since nothing reads them (the published
code computes both and throws them away); newlines have their natural positions unless the model's
configuration says "authors".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from proxyv.domains import Count
from proxyv.errors import FieldError, UserError
from proxyv.methods.shared.guided_update import GuidedUpdate
from proxyv.methods.shared.proxy_rows import ProxyPlan, Visibility, make_proxy_plan
from proxyv.methods.shared.text_queries import TextQueryLayer, TextQueryMethod, check_hidden_ratio
from proxyv.model.attention import back_end_of
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.layout import Layout
from proxyv.model.pretrained import ProxyVPreTrainedModel

Project = Callable[[torch.Tensor], torch.Tensor]  # (C, p, D) → (C, p, m), letters as in guided_update.py


@dataclass(frozen=True)
class ProxyMethod(TextQueryMethod):
    """What spatial and non-spatial proxies share."""

    modules: ClassVar[tuple[str, ...]] = ("guided_update", "proxy_initializer")

    hidden_ratio: Count = 4  # guided update: LLM width / hidden width
    # Where paper and released code disagree; the defaults are the released code's, `true` is the paper's.
    proxies_see_vision: bool = False
    text_sees_proxies: bool = False

    def proxies_per_crop(self, tokens: int) -> int:
        """p for crops of `tokens` vision tokens."""
        raise NotImplementedError

    def make_initializer(self, hidden_size: int) -> nn.Module:
        """Module: vision tokens (C, P, D), and (C, P) bool which of them are there (None: all) → proxies (C, p, D) and
        splat weights (C, P, p) or None."""
        raise NotImplementedError

    def context(self, proxies: torch.Tensor, project: Project, splat: torch.Tensor | None, tokens: int) -> torch.Tensor:
        """Bring proxies (C, p, D) through `project` (D → m) to every vision token: (C, P, m)."""
        raise NotImplementedError

    def mixin(self) -> type[TextQueryLayer]:
        return ProxyVLayer

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        check_hidden_ratio(self.hidden_ratio, config.text_config)

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> ProxyPlan:
        llm = model.language_model
        visibility = Visibility(self.proxies_see_vision, self.text_sees_proxies)
        proxies = self.proxies_per_crop(layout.vision_rows.shape[1])
        back_end = back_end_of(llm.config)
        return make_proxy_plan(layout, proxies, visibility, llm.model.rotary_emb, back_end, embeddings)


@dataclass(frozen=True)
class ProxyV(ProxyMethod):
    """Spatial proxies; each stands for a block of `downsample` × `downsample` vision tokens of its crop."""

    name: ClassVar[str] = "proxyv"
    trained: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("grid",)

    downsample: Count = 4
    initialisation: Literal["bilinear", "area"] = "bilinear"  # as released; "area": the mean of the whole block

    def proxies_per_crop(self, tokens: int) -> int:
        return tokens // self.downsample**2

    def make_initializer(self, hidden_size: int) -> nn.Module:
        return SpatialProxies(self.downsample, INITIALISATIONS[self.initialisation])

    def context(self, proxies: torch.Tensor, project: Project, splat: torch.Tensor | None, tokens: int) -> torch.Tensor:
        blocks: torch.Tensor = project(proxies).unflatten(1, (math.isqrt(tokens) // self.downsample, -1))
        return blocks.repeat_interleave(self.downsample, 1).repeat_interleave(self.downsample, 2).flatten(1, 2)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        side = math.isqrt(tokens)
        if side**2 != tokens:
            raise FieldError("name", f"proxyv needs a square grid, not {tokens} tokens per crop; use proxyv_ns")
        if side % self.downsample:
            raise FieldError(
                "downsample",
                f"{self.downsample} does not divide the {side} × {side} vision tokens of a "
                f"crop; use a divisor of {side}",
            )


def _bilinear(grid: torch.Tensor, factor: int) -> torch.Tensor:
    """grid (C, D, side, side) → (C, D, side / factor, side / factor), with half-pixel centres and no antialiasing: at a
    factor of 4, the mean of the central 2 × 2 of each block."""
    return F.interpolate(grid, size=(grid.shape[2] // factor, grid.shape[3] // factor), mode="bilinear")


INITIALISATIONS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "bilinear": _bilinear,
    "area": F.avg_pool2d,
}


class SpatialProxies(nn.Module):
    """A square grid of vision tokens → one proxy per block of factor × factor."""

    def __init__(self, factor: int, shrink: Callable[[torch.Tensor, int], torch.Tensor]):
        super().__init__()
        self.factor, self.shrink = factor, shrink

    def forward(self, vision: torch.Tensor, present: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        """vision (C, P, D) → proxies (C, p, D), no splat weights. A grid is whole: `present` is None."""
        side = math.isqrt(vision.shape[1])
        grid = vision.transpose(1, 2).unflatten(2, (side, side))
        return self.shrink(grid, self.factor).flatten(2).transpose(1, 2), None


class ProxyVLayer(TextQueryLayer):
    """With images, proxies, text and newlines go through attention and FFN and the proxies guide the update of the
    vision tokens."""

    def attach_method(self, method: ProxyMethod, config: PreTrainedConfig, tokens: int, index: int) -> None:
        """As the parent's."""
        super().attach_method(method, config, tokens, index)
        size = config.hidden_size
        if not self.is_last:
            self.guided_update = GuidedUpdate(size, size // method.hidden_ratio, config.rms_norm_eps)
        if index == method.start_layer and (not self.is_last or method.text_sees_proxies):
            self.proxy_initializer = method.make_initializer(size)

    def forward_with_images(self, hidden: torch.Tensor, plan: ProxyPlan, cache: Cache | None) -> torch.Tensor:
        """(B, rows, D) → (B, rows, D): L rows, and proxies behind them from the start layer to the last.

        Raises UserError under a kind of gradient checkpointing that would give wrong gradients.
        """
        if hasattr(self, "proxy_initializer"):
            proxies, plan.splat = self.proxy_initializer(hidden.flatten(0, 1)[plan.vision_rows], plan.present)
            plan.splat_detached = not torch.is_grad_enabled()
            hidden = plan.append(hidden, proxies)
        rows = plan.text if self.is_last else plan.with_proxies
        hidden = hidden[:, : rows.keys]
        queries = self.attend_and_feed(hidden, rows, plan, cache)
        vision = rows.gather_vision(hidden)
        if self.is_last:
            return rows.scatter(vision, queries)[:, : plan.length]
        if plan.splat is not None and plan.splat_detached and torch.is_grad_enabled():
            # Later layers would take the splat weights of the first pass, which has no gradient.
            raise UserError("gradient checkpointing: proxyv_ns needs use_reentrant=False, or its gradients are wrong")
        proxies = queries.flatten(0, 1)[plan.proxy_places]
        return rows.scatter(self._update(vision, proxies, plan.splat), queries)

    def _update(self, vision: torch.Tensor, proxies: torch.Tensor, splat: torch.Tensor | None) -> torch.Tensor:
        """vision (C, P, D), proxies (C, p, D), splat weights (C, P, p) or None → (C, P, D)."""
        context = self.method.context(proxies, self.guided_update.project_context, splat, vision.shape[1])
        updated: torch.Tensor = self.guided_update(vision, context)
        return updated
