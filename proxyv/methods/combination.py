"""Combination: a method before the LLM, and another inside it on what the first has left.

Paper: arXiv 2505.15816, section "non-spatial ProxyV", combines VisionZip (arXiv 2412.04467; 360 + 40 tokens per crop)
with non-spatial ProxyV from layer 12 on, which is the default here.
Deviations: those of the two methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch

from proxyv.domains import CheckedBy
from proxyv.errors import FieldError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.layout import Layout
from proxyv.model.method import HOOKS_BEFORE_LLM, HOOKS_INSIDE_LLM, Method, Plan, Prompt, VisionTokens, overrides
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.registry import describe_method, make_method
from proxyv.model.vision import TowerView

Fields = Annotated[dict[str, Any], CheckedBy("model/registry.py")]
PUBLISHED = {
    "before_llm": {"name": "visionzip", "dominant": 360, "contextual": 40},
    "inside_llm": {"name": "proxyv_ns", "start_layer": 12},
}


@dataclass(frozen=True)
class Combination(Method):
    """Two methods, each as a mapping of its name and fields; an empty one stands for the published method."""

    name: ClassVar[str] = "combination"

    # Empty by default: a recipe's mapping is merged over the default, and fields of another method must not stay.
    before_llm: Fields = field(default_factory=dict)
    inside_llm: Fields = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, published in PUBLISHED.items():
            method = _make(place, getattr(self, place) or published)
            object.__setattr__(self, place, describe_method(method))  # every field is written out; frozen from here on

    @cached_property
    def first(self) -> Method:
        """The method before the LLM."""
        return _make("before_llm", self.before_llm)

    @cached_property
    def second(self) -> Method:
        """The method inside the LLM."""
        return _make("inside_llm", self.inside_llm)

    # What other classes declare for themselves depends on the two methods here.

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.first.modules + self.second.modules

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(self.first.needs + self.second.needs))

    @property
    def trained(self) -> bool:  # type: ignore[override]
        return self.first.trained or self.second.trained

    @property
    def approximate(self) -> bool:  # type: ignore[override]
        return self.first.approximate or self.second.approximate

    @property
    def keeps_grid(self) -> bool:  # type: ignore[override]
        return self.first.keeps_grid

    @cached_property
    def passes(self) -> tuple[Combination, ...]:
        """Every pass of the first method with every pass of the second."""
        pairs = [(one, two) for one in self.first.training_passes() for two in self.second.training_passes()]
        return tuple(
            replace(self, before_llm=describe_method(one), inside_llm=describe_method(two)) for one, two in pairs
        )

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        first, second = self.first, self.second
        if overrides(first, HOOKS_INSIDE_LLM):
            raise FieldError("before_llm", f"'{first.name}' acts inside the LLM; name it under method.inside_llm")
        if overrides(second, HOOKS_BEFORE_LLM):
            raise FieldError("inside_llm", f"'{second.name}' acts before the LLM; name it under method.before_llm")
        if "grid" in second.needs and not first.keeps_grid:
            raise FieldError(
                "inside_llm",
                f"'{second.name}' needs a grid of vision tokens, '{first.name}' keeps none; use one that takes any, "
                "such as proxyv_ns",
            )
        with _errors_of("before_llm"):
            first.check(config, tokens)
        with _errors_of("inside_llm"):
            second.check(config, first.tokens_per_crop(tokens))
        for one in first.training_passes():
            left = one.tokens_per_crop(tokens)
            with _errors_of("inside_llm", f" (a training pass of '{first.name}' leaves {left} tokens of a crop)"):
                second.check(config, left)

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        self.first.install(model, tokens)
        self.second.install(model, self.first.tokens_per_crop(tokens))

    def limit_grid(self, grid: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return self.first.limit_grid(grid)

    def tokens_per_crop(self, tokens: int) -> int:
        return self.first.tokens_per_crop(tokens)

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        return self.first.select(model, view, prompt)

    def merge(self, model: ProxyVPreTrainedModel, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        return self.first.merge(model, vision, prompt)

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> Plan | None:
        return self.second.plan(model, layout, embeddings)

    def training_passes(self) -> Sequence[Method]:
        return self.passes if len(self.passes) > 1 else (self,)


def _make(place: str, fields: dict[str, Any]) -> Method:
    return make_method(fields, section=f"method.{place}")


@contextmanager
def _errors_of(place: str, hint: str = "") -> Iterator[None]:
    """Raise errors about a field of one of the two methods under its name in the recipe, and with the hint behind."""
    try:
        yield
    except FieldError as error:
        raise FieldError(error.field, error.problem + hint, section=f"method.{place}") from error
