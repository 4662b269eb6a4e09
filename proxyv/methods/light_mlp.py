"""Light MLP: from a layer on, vision tokens skip attention and FFN; a small MLP of each layer updates them instead.

Paper: arXiv 2505.15816, section 2 ("ATN+FFN" is what vision tokens skip), trained like ProxyV, which adds guidance by
proxies to this update. Vision tokens are keys and values; text and newlines attend to all rows before them.
Deviations: no code is public, and the paper does not spell the MLP out. Here it is ProxyV's guided update without its
branch for proxies, which has the published 9.44 M parameters per layer of Vicuna-7B. The last layer updates no vision
tokens, since nothing reads them, so the reduction of FLOPs is a little above the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from proxyv.domains import Count
from proxyv.methods.shared.text_queries import TextQueryLayer, TextQueryMethod, TextQueryPlan, check_hidden_ratio
from proxyv.model.configuration import ProxyVConfig


@dataclass(frozen=True)
class LightMLP(TextQueryMethod):
    """From `start_layer` on, vision tokens go through a light MLP only."""

    name: ClassVar[str] = "light_mlp"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("light_mlp",)

    hidden_ratio: Count = 4  # LLM width / hidden width

    def mixin(self) -> type[TextQueryLayer]:
        return LightMLPLayer

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        check_hidden_ratio(self.hidden_ratio, config.text_config)


class LightUpdate(nn.Module):
    """F ← RMSNorm(F + up(SiLU(mix(input_proj(F))))), all linear maps without bias."""

    def __init__(self, hidden_size: int, inner_size: int, eps: float):
        super().__init__()
        self.input_proj = nn.Linear(hidden_size, inner_size, bias=False)
        self.mix = nn.Linear(inner_size, inner_size, bias=False)
        self.up = nn.Linear(inner_size, hidden_size, bias=False)
        self.norm = LlamaRMSNorm(hidden_size, eps=eps)

    def forward(self, vision: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, D)."""
        updated: torch.Tensor = self.norm(self.up(F.silu(self.mix(self.input_proj(vision)))) + vision)
        return updated


class LightMLPLayer(TextQueryLayer):
    """With images, text and newlines go through attention and FFN, vision tokens through the light MLP."""

    def attach_method(self, method: LightMLP, config: PreTrainedConfig, tokens: int, index: int) -> None:
        """As the parent's."""
        super().attach_method(method, config, tokens, index)
        size = config.hidden_size
        if not self.is_last:
            self.light_mlp = LightUpdate(size, size // method.hidden_ratio, config.rms_norm_eps)

    def forward_with_images(self, hidden: torch.Tensor, plan: TextQueryPlan, cache: Cache | None) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        queries = self.attend_and_feed(hidden, plan.text, plan, cache)
        vision = plan.text.gather_vision(hidden)
        return plan.text.scatter(vision if self.is_last else self.light_mlp(vision), queries)
