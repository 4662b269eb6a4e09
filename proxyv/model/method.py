"""The interface of a method: a way to spend less on vision tokens. Every default is the identity.

A method is a frozen dataclass in its own file; its fields are what a recipe may set under `method:`, and their types
say which values they take (proxyv/domains.py). Core code calls the hooks below, in this order, and never checks which
method it is:

    limit_grid   which crops an image may have                       once, for the image processor
    check        do the fields fit this model                         once
    install      put modules and layers in place                      once
    select       tower features → what enters the projector           every prefill with images
    merge        projected vision tokens → those that enter the LLM   every prefill with images
    plan         what this method's decoder layers need               every prefill with images

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from proxyv.domains import Declared
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.layout import Layout
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.vision import TowerView

# What a method may need beyond the features that every model computes; each costs something of its own.
NEEDS = {
    "cls_attention": "the attention of the tower's CLS token",
    "keys": "keys of a tower layer",
    "tower_layers": "features of several tower layers",
    "llm_attention": "attention of a few text rows inside the LLM",
    "question": "the question's text",
    "grid": "vision tokens in a square grid",
    "dense_mask": "a mask over all pairs of rows (sdpa or eager attention)",
}


class VisionTokens(NamedTuple):
    """What stands for the images, on its way into the LLM."""

    values: torch.Tensor  # (C, P, T) before the projector, (C, P, D) behind it; P' where a method has reduced them
    counts: torch.Tensor | None = None  # (C,) int64: crop c has the first `counts[c]` of them; None: all
    extra: torch.Tensor | None = None  # (I, X, D) vectors that stand behind each image's last newline


class Prompt(NamedTuple):
    """The prompt that the images stand in."""

    input_ids: torch.Tensor  # (B, L) int64, placeholders at vision and newline rows
    layout: Layout  # before anything is merged


class Selection(nn.Module):
    """A module inside decoder layers that chooses among vision tokens, and does nothing else: profiles show its cost
    beside the layers'. What a method computes before the LLM needs no mark."""


class Plan:
    """What the layers of a method share during one prefill. The default leaves every row where it is."""

    def remaining(self, values: torch.Tensor, fill: int, layers: int | None = None) -> torch.Tensor:
        """Of values (B, L), one for each row of the layout, those of the rows that are left behind the first `layers`
        layers (None: behind all), (B, L'); `fill` where a row is padding. To be called after the prefill."""
        return values


@dataclass(frozen=True)
class Method(Declared):
    """Identity: every vision token goes through every layer."""

    name: ClassVar[str] = ""
    # Names of the submodules whose parameters are this method's, not the LLM's own.
    modules: ClassVar[tuple[str, ...]] = ()
    # What it needs beyond the features, of `NEEDS`.
    needs: ClassVar[tuple[str, ...]] = ()
    # Whether the method has to be trained. One without it works on trained models as they are, and may be trained too.
    trained: ClassVar[bool] = False
    # Where the method is rebuilt from what little is public.
    approximate: ClassVar[bool] = False
    # Whether what enters the LLM is still a square grid in raster order.
    keeps_grid: ClassVar[bool] = True
    # Whether text behind an image reads the image's newlines: they are no vision tokens where those are counted.
    text_reads_newlines: ClassVar[bool] = True

    @property
    def prompt_aware(self) -> bool:
        """Whether the prompt's text decides which vision tokens stay, or what they become."""
        return not {"llm_attention", "question"}.isdisjoint(self.needs)

    def limit_grid(self, grid: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """The (columns, rows) of crops that an image may have, of those that the recipe allows."""
        return grid

    def tokens_per_crop(self, tokens: int) -> int:
        """The most vision tokens of a crop that enter the LLM, of `tokens` that leave the tower."""
        return tokens

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        """Raise UserError where the fields do not fit the model, or crops of `tokens` vision tokens."""

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        """Put this method's layers and modules into a fresh model, in place; called once, before weights are
        loaded. `tokens` as in `check`."""

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        """Before the projector: what the tower saw → vectors (C, P', T) for the projector, P' ≤ P."""
        return VisionTokens(view.patches())

    def merge(self, model: ProxyVPreTrainedModel, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        """After the projector: vision tokens (C, P, D) → those that enter the LLM (C, P', D), P' ≤ P."""
        return vision

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> Plan | None:
        """What this method's layers need for one prefill, whose rows enter as `embeddings` (B, L, D); handed to every
        layer as `vision_plan`. None: nothing."""
        return None

    def training_passes(self) -> Sequence[Method]:
        """The methods under which each training batch runs, one pass each; the loss is their mean."""
        return (self,)


HOOKS_BEFORE_LLM = ("limit_grid", "tokens_per_crop", "select", "merge")
HOOKS_INSIDE_LLM = ("plan",)


def overrides(method: Method, hooks: Sequence[str]) -> bool:
    """Whether a method does anything of its own in one of these hooks."""
    return any(getattr(type(method), hook) is not getattr(Method, hook) for hook in hooks)
