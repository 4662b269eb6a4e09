"""ProxyV, non-spatial: learned queries pool the vision tokens of a crop into proxies and spread them back.

Paper: arXiv 2505.15816, section "non-spatial ProxyV"; details from the authors' public code at commit 42d6d97
(`learn_proxy`). One matrix of scores between queries and vision tokens serves both ways: a softmax over the vision
tokens pools, a softmax over the proxies splats.
Deviations: as in proxyv.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from proxyv.domains import Count
from proxyv.errors import FieldError
from proxyv.methods.proxyv import Project, ProxyMethod
from proxyv.model.configuration import ProxyVConfig


@dataclass(frozen=True)
class NonSpatialProxyV(ProxyMethod):
    """Learned proxies; works for any number of vision tokens per crop."""

    name: ClassVar[str] = "proxyv_ns"
    trained: ClassVar[bool] = True

    queries: Count = 36  # proxies per crop

    def proxies_per_crop(self, tokens: int) -> int:
        return self.queries

    def make_initializer(self, hidden_size: int) -> nn.Module:
        return LearnedProxies(hidden_size, hidden_size // self.hidden_ratio, self.queries)

    def context(self, proxies: torch.Tensor, project: Project, splat: torch.Tensor | None, tokens: int) -> torch.Tensor:
        assert splat is not None  # the start layer made it
        return project(splat @ proxies)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        if self.queries > tokens:
            raise FieldError("queries", f"{self.queries} must lie between 1 and the {tokens} vision tokens of a crop")


class LearnedProxies(nn.Module):
    """Queries (p, d) against projected vision tokens."""

    def __init__(self, hidden_size: int, query_size: int, queries: Count):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, query_size))
        self.key_proj = nn.Linear(hidden_size, query_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' initial scale, randn / √(4 d)."""
        nn.init.normal_(self.queries, std=(4 * self.queries.shape[1]) ** -0.5)

    def forward(self, vision: torch.Tensor, present: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """vision (C, P, D), and (C, P) bool which of it is there (None: all) → proxies (C, p, D) and splat weights
        (C, P, p)."""
        scores = self.queries @ self.key_proj(vision).transpose(1, 2) * self.queries.shape[1] ** -0.5
        splat = scores.transpose(1, 2).softmax(-1)
        if present is not None:  # the lowest finite number, not -inf: a crop without any token must stay finite
            scores = scores.masked_fill(~present[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ vision, splat
