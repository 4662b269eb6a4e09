"""ProxyV, spatial: one proxy token per block of vision tokens does the heavy work in their place.

Paper: "Streamline Without Sacrifice - Squeeze out Computation Redundancy in LMM", ICML 2025, arXiv 2505.15816.
Source of the details: the authors' public code at commit 42d6d97, where it and the paper differ.
Deviations: the last layer updates no vision tokens and runs no proxies, since nothing reads them (the published
code computes both and throws them away); newlines stand at their natural positions unless the model's
configuration says "authors".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from proxyv.errors import UserError
from proxyv.methods.base import Method
from proxyv.methods.proxy_plan import ProxyPlan, QueryRows, make_proxy_plan
from proxyv.model.attention import attend
from proxyv.model.families import Family, family_of, layer_class, rotate
from proxyv.model.layout import Layout


@dataclass(frozen=True)
class ProxyMethod(Method):
    """What spatial and non-spatial proxies share; `start_layer` counts from 0."""

    modules: ClassVar[tuple[str, ...]] = ("guided_update", "proxy_initializer")

    start_layer: int = 12
    hidden_ratio: int = 4  # guided update: LLM width / hidden width

    def proxies_per_crop(self, side: int) -> int:
        """p for crops of `side` × `side` vision tokens."""
        raise NotImplementedError

    def make_initializer(self, hidden_size: int, side: int) -> nn.Module:
        """Module: vision tokens (C, P, D) → proxies (C, p, D) and splat weights (C, P, p) or None."""
        raise NotImplementedError

    def context(self, proxies: torch.Tensor, project: nn.Module, splat: torch.Tensor | None, side: int) -> torch.Tensor:
        """Bring proxies (C, p, D) through `project` (D → m) to every vision token: (C, P, m)."""
        raise NotImplementedError

    def check(self, text_config: PreTrainedConfig, side: int) -> None:
        family_of(text_config)
        layers = text_config.num_hidden_layers
        if not 0 <= self.start_layer < layers:
            raise UserError(f"method.start_layer: {self.start_layer} is not a layer of the LLM; use 0 to {layers - 1}")
        if self.hidden_ratio < 1 or text_config.hidden_size % self.hidden_ratio:
            raise UserError(
                f"method.hidden_ratio: {self.hidden_ratio} does not divide the LLM's width "
                f"{text_config.hidden_size}; use a divisor"
            )

    def install(self, llm: PreTrainedModel, side: int) -> None:
        family, config = family_of(llm.config), llm.config
        mixed = layer_class(ProxyVLayer, family.layer)
        for index in range(self.start_layer, config.num_hidden_layers):
            layer = llm.model.layers[index]
            layer.__class__ = mixed
            layer.take_method(self, family, config, side, index)
        # Sharding and device placement must keep these layers whole, like the parent class.
        llm._no_split_modules = {*(llm._no_split_modules or ()), mixed.__name__}

    def plan(self, llm: PreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> ProxyPlan:
        p = self.proxies_per_crop(round(layout.vision_rows.shape[1] ** 0.5))
        return make_proxy_plan(layout, p, llm.model.rotary_emb, llm.config._attn_implementation, embeddings)


@dataclass(frozen=True)
class ProxyV(ProxyMethod):
    """Spatial proxies; each stands for a block of `downsample` × `downsample` vision tokens of its crop."""

    name: ClassVar[str] = "proxyv"

    downsample: int = 4

    def proxies_per_crop(self, side: int) -> int:
        return (side // self.downsample) ** 2

    def make_initializer(self, hidden_size: int, side: int) -> nn.Module:
        return SpatialProxies(side, side // self.downsample)

    def context(self, proxies: torch.Tensor, project: nn.Module, splat: torch.Tensor | None, side: int) -> torch.Tensor:
        blocks = project(proxies).unflatten(1, (side // self.downsample, -1))
        return blocks.repeat_interleave(self.downsample, 1).repeat_interleave(self.downsample, 2).flatten(1, 2)

    def check(self, text_config: PreTrainedConfig, side: int) -> None:
        super().check(text_config, side)
        if self.downsample < 1 or side % self.downsample:
            raise UserError(
                f"method.downsample: {self.downsample} does not divide the {side} × {side} vision tokens of a "
                f"crop; use a divisor of {side}"
            )


class SpatialProxies(nn.Module):
    """side × side vision tokens → proxy_side × proxy_side proxies by bilinear interpolation with half-pixel
    centres and no antialiasing (for a factor of 4: the mean of the central 2 × 2 of each block)."""

    def __init__(self, side: int, proxy_side: int):
        super().__init__()
        self.side, self.proxy_side = side, proxy_side

    def forward(self, vision: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(C, P, D) → (C, p, D), no splat weights."""
        grid = vision.transpose(1, 2).unflatten(2, (self.side, self.side))
        small = F.interpolate(grid, size=(self.proxy_side, self.proxy_side), mode="bilinear")
        return small.flatten(2).transpose(1, 2), None


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

    def forward(self, vision: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """vision (C, P, D), context (C, P, m) → (C, P, D)."""
        inner = F.silu(self.mix(torch.cat([self.input_proj(vision), context], -1)))
        return self.norm(self.up(inner) + vision)


class ProxyVLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer. With a plan (prefill with images), proxies, text and
    newlines go through attention and FFN and the proxies guide the update of the vision tokens; without one
    (decoding, text only) it is the plain parent layer."""

    method: ProxyMethod
    family: Family
    # The parent layer's own modules.
    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any

    def take_method(self, method: ProxyMethod, family: Family, config: PreTrainedConfig, side: int, index: int) -> None:
        """Add this method's modules to an existing decoder layer."""
        self.method, self.family, self.side = method, family, side
        self.is_start = index == method.start_layer
        self.is_last = index == config.num_hidden_layers - 1
        if self.is_last:
            return  # nothing reads the vision tokens after the last layer
        size = config.hidden_size
        self.guided_update = GuidedUpdate(size, size // method.hidden_ratio, config.rms_norm_eps)
        if self.is_start:
            self.proxy_initializer = method.make_initializer(size, side)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        vision_plan: ProxyPlan | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, rows, D) → (B, rows, D). Proxies ride behind the rows from the start layer to the last."""
        if vision_plan is None:
            hidden_states = super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
            return self._touch(hidden_states)
        if self.is_last:
            return self._last(hidden_states[:, : vision_plan.length], vision_plan, past_key_values)
        if self.is_start:
            vision = hidden_states.flatten(0, 1)[vision_plan.last.vision_rows]
            proxies, vision_plan.splat = self.proxy_initializer(vision)
            hidden_states = vision_plan.append(hidden_states, proxies)
        rows = self._attend_and_feed(hidden_states, vision_plan.middle, vision_plan, past_key_values)
        proxies = rows.flatten(0, 1)[vision_plan.proxy_slots]
        vision = hidden_states.flatten(0, 1)[vision_plan.middle.vision_rows]
        return vision_plan.middle.scatter(self._update(vision, proxies, vision_plan.splat), rows)

    def _last(self, hidden: torch.Tensor, plan: ProxyPlan, cache: Cache | None) -> torch.Tensor:
        rows = self._attend_and_feed(hidden, plan.last, plan, cache)
        return plan.last.scatter(hidden.flatten(0, 1)[plan.last.vision_rows], rows)

    def _attend_and_feed(
        self, hidden: torch.Tensor, ask: QueryRows, plan: ProxyPlan, cache: Cache | None
    ) -> torch.Tensor:
        """Attention and FFN for the query rows only; keys and values from all rows. Returns (B, Q, D)."""
        normed = self.input_layernorm(hidden)
        query = rotate(self.family.query(self.self_attn, ask.gather(normed)), ask.cos, ask.sin)
        key, value = self.family.key_value(self.self_attn, normed)
        width = key.shape[2]
        key = rotate(key, plan.cos[:, :width], plan.sin[:, :width])
        if cache is not None:  # proxies never enter the cache
            cache.update(key[:, :, : plan.length], value[:, :, : plan.length], self.self_attn.layer_idx)
        attended = attend(self.self_attn, query, key, value, ask.mask)
        rows = ask.gather(hidden) + self.self_attn.o_proj(attended)
        return rows + self.mlp(self.post_attention_layernorm(rows))

    def _update(self, vision: torch.Tensor, proxies: torch.Tensor, splat: torch.Tensor | None) -> torch.Tensor:
        context = self.method.context(proxies, self.guided_update.context_proj, splat, self.side)
        return self.guided_update(vision, context)

    def _touch(self, hidden: torch.Tensor) -> torch.Tensor:
        """Add zero, through this layer's own modules: a rank whose micro-batch has no image must still take part
        in the gradient exchange of every trained module, else the others wait for it forever."""
        if self.is_last or not (self.training and torch.is_grad_enabled()):
            return hidden
        p = self.method.proxies_per_crop(self.side)
        vision = hidden.new_zeros(1, self.side**2, hidden.shape[-1])
        proxies, splat = vision[:, :p], vision[..., :1].expand(-1, -1, p)
        if self.is_start:
            proxies, splat = self.proxy_initializer(vision)
        return hidden + 0.0 * self._update(vision, proxies, splat).sum()
