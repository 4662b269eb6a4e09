"""VideoLLM-MoD: in chosen decoder layers, a router lets a fifth of the vision tokens through; the rest skip the layer.

Paper: "VideoLLM-MoD: Efficient Video-Language Streaming with Mixture-of-Depths Vision Computation", NeurIPS 2024,
arXiv 2408.16730. Source of the details: the paper's text; there is no code. A linear map μ = w·x scores the vision
tokens of a frame, and the best share `keep` of them go through attention and FFN together with all text. A token that
skips the layer is neither query nor key in it and stays as it is; of one that goes through, the layer's update is
multiplied by μ; text is processed as ever. Ablated in the paper: every layer or every second one, from the start or
from layer 2 on ("deep").
Deviations: a crop stands for a frame, newlines for text; positions stay. Which of two neighbours every second layer
means is not said: here the first layer is an ordinary one. μ of a fresh router scales updates by arbitrary numbers, so
it must be trained; `weighting: bounded` multiplies by 1 + 0.2 · tanh(w·x) instead, w from zero, as p-MoD does (arXiv
2412.04449; its weights of skipped tokens and its shares that shrink over depth are left out). A router in the last
layer gets no gradient, since nothing reads the vision tokens behind it: it chooses as it did from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from proxyv.domains import PositiveShare
from proxyv.errors import FieldError
from proxyv.methods.shared.row_subset import RowSubset, all_rows
from proxyv.methods.shared.subset_layer import SubsetLayer, SubsetPlan, check_row_order
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.families import mix_into_layers
from proxyv.model.layout import Layout
from proxyv.model.method import Method, Selection
from proxyv.model.pretrained import ProxyVPreTrainedModel

LAYERS = {  # (first layer, step)
    "all": (0, 1),
    "interleaved": (1, 2),
    "all_deep": (2, 1),
    "interleaved_deep": (3, 2),
}


@dataclass(frozen=True)
class VideoLLMMoD(Method):
    """A share `keep` of each crop's vision tokens goes through the chosen layers."""

    name: ClassVar[str] = "videollm_mod"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("router",)

    keep: PositiveShare = 0.2
    layers: Literal["all", "interleaved", "all_deep", "interleaved_deep"] = "interleaved"
    weighting: Literal["linear", "bounded"] = "linear"  # "bounded": as p-MoD

    def chosen(self, layers: int) -> range:
        """The layers with a router, of an LLM's `layers`; both count from 0."""
        first, step = LAYERS[self.layers]
        return range(first, layers, step)

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_row_order(config, self.name)
        layers = config.text_config.num_hidden_layers
        if not self.chosen(layers):
            raise FieldError("layers", f"'{self.layers}' names none of the LLM's {layers} layers; use all")

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        llm = model.language_model
        for _, layer in mix_into_layers(llm, RoutedLayer, self.chosen(llm.config.num_hidden_layers)):
            layer.router = WEIGHTINGS[self.weighting](llm.config.hidden_size, 1, bias=False)

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> RoutedPlan:
        device = embeddings.device
        return RoutedPlan(
            llm=model.language_model,
            embeddings=embeddings.detach(),
            first=all_rows(layout, device, per_crop=True),
            prompt_length=layout.prompt_length,
            keep=self.keep,
            is_vision=layout.is_vision.to(device),
        )


class Router(nn.Linear, Selection):
    """Scores rows (…, D) → (…, 1), by which they are chosen and their update is weighted."""


class BoundedRouter(Router):
    """Weights between 0.8 and 1.2; a fresh one says 1, so that the layer begins as it is."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 1 + 0.2 * torch.tanh(super().forward(rows))


WEIGHTINGS = {"linear": Router, "bounded": BoundedRouter}


@dataclass(kw_only=True)
class RoutedPlan(SubsetPlan):
    """Which rows go through each chosen layer of one prefill; a layer that runs again, for gradient checkpointing,
    finds what the first pass chose."""

    keep: float
    is_vision: torch.Tensor  # (B, L) bool
    through: dict[int, RowSubset] = field(default_factory=dict)  # by layer

    def choose(self, layer: int, weights: torch.Tensor) -> RowSubset:
        """Text and the vision tokens with the largest weights (B, L) of each crop."""
        if layer not in self.through:
            counts = [round(count * self.keep) for count in self.first.counts]
            self.through[layer], _ = self.first.keep_top(self.first.vision_values(weights), counts)
        return self.through[layer]


class RoutedLayer(SubsetLayer):
    """Takes the chosen rows through the parent layer, and passes the others on."""

    router: Router

    def forward_with_images(
        self, hidden: torch.Tensor, index: int, plan: RoutedPlan, arguments: dict[str, Any]
    ) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        weights = self.router(hidden)
        rows = plan.choose(index, weights.detach()[..., 0])
        plan.set_cache_rows(arguments.get("past_key_values"), index, rows)
        before = rows.gather(hidden)
        after = self.parent_forward(before, plan.layer_args(rows), arguments)
        weighted = before + rows.gather(weights) * (after - before)
        return rows.scatter(torch.where(rows.gather(plan.is_vision)[..., None], weighted, after), into=hidden)
