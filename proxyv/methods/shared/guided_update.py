"""The guided update of ProxyV, spatial or not: the only work that its layers do for vision tokens.

Letters beside those of `proxyv.model`: p proxies per crop, m inner width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from proxyv.errors import UserError


class GuidedUpdate(nn.Module):
    """The low-rank MLP by which proxies update vision tokens (arXiv 2505.15816, section 3.2):
    F ← RMSNorm(F + up(SiLU(mix([input_proj(F), context])))), all linear maps without bias."""

    def __init__(self, hidden_size: int, inner_size: int, eps: float):
        super().__init__()
        self.context_proj = nn.Linear(hidden_size, inner_size, bias=False)
        self.input_proj = nn.Linear(hidden_size, inner_size, bias=False)
        self.mix = nn.Linear(2 * inner_size, inner_size, bias=False)
        self.up = nn.Linear(inner_size, hidden_size, bias=False)
        self.norm = LlamaRMSNorm(hidden_size, eps=eps)
        self.folded_input: torch.Tensor | None  # see `fold`; buffers, so that they move with the module
        self.folded_context: torch.Tensor | None
        self.register_buffer("folded_input", None, persistent=False)
        self.register_buffer("folded_context", None, persistent=False)

    def project_context(self, proxies: torch.Tensor) -> torch.Tensor:
        """proxies (C, p, D) → their context (C, p, m), of the same dtype."""
        folded = self.folded_context
        context: torch.Tensor = self.context_proj(proxies) if folded is None else F.linear(proxies, folded)
        return context

    def forward(self, vision: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """vision (C, P, D), context (C, P, m) of projected proxies, at each vision token's place → (C, P, D)."""
        if self.folded_input is None:
            inner = self.mix(torch.cat([self.input_proj(vision), context], -1))
        else:
            inner = F.linear(vision, self.folded_input) + context
        updated: torch.Tensor = self.norm(self.up(F.silu(inner)) + vision)
        return updated

    @torch.no_grad()
    def fold(self) -> None:
        """Merge `mix` into both projections before it: all that is between them is linear.

        Raises UserError where an adapter is on one of them.
        """
        if not all(type(linear) is nn.Linear for linear in (self.input_proj, self.context_proj, self.mix)):
            raise UserError("fold: an adapter is on the guided update; merge it first (`proxyv merge`)")
        of_input, of_context = self.mix.weight.chunk(2, 1)
        self.folded_input = of_input @ self.input_proj.weight
        self.folded_context = of_context @ self.context_proj.weight

    def unfold(self) -> None:
        """Forget the merged maps; the original ones were kept."""
        self.folded_input = self.folded_context = None

    def train(self, mode: bool = True) -> GuidedUpdate:
        """Training changes the original weights, so it ends folding."""
        if mode:
            self.unfold()
        return super().train(mode)
