"""G-Search: a share of vision tokens for every decoder layer, found layer by layer on calibration data.

Paper: "Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction", arXiv 2412.00556.
Source of the details: its abstract, figures and tables; there is no public code. Approximate: the search itself is not
rebuilt. `shares` are read off the paper's figure for LLaVA-1.5-7B, whose layers it counts from 1; the last of its 32
layers is not shown, and takes the share of the one before. As far as is known, layer i keeps the tokens that got most
attention from the text in layer i − 1, the first two layers keep all, and a token that left does not come back.
Deviations: which text rows and heads rank is not known, so it is as in FastV (the last prompt token, or in training
the rows right before supervised spans; the mean over heads), and positions stay. Candidates are each image's vision
tokens, never its newlines. For an LLM of another depth, the curve is read at the same relative depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from proxyv.domains import Share
from proxyv.errors import FieldError
from proxyv.methods.shared.dropping import DroppingMethod
from proxyv.model.configuration import ProxyVConfig

FULL_LAYERS = 2  # the first layers, which keep all


@dataclass(frozen=True)
class CurveMethod(DroppingMethod):
    """A share of the original vision tokens for every layer; shares never rise."""

    approximate: ClassVar[bool] = True
    ranks_by_layer_before: ClassVar[bool] = True

    def curve(self, layers: int) -> Sequence[float]:
        """The share of each of an LLM's `layers`; that of the first is 1."""
        raise NotImplementedError

    def schedule(self, layers: int) -> dict[int, float]:
        shares = self.curve(layers)
        return {layer: shares[layer] for layer in range(1, layers) if shares[layer] < shares[layer - 1]}


@dataclass(frozen=True)
class GSearch(CurveMethod):
    """The shares that the search found, one for each layer."""

    name: ClassVar[str] = "g_search"

    shares: tuple[Share, ...] = (
        *(1.0, 1.0, 0.65, 0.64, 0.62, 0.62, 0.62, 0.5, 0.5, 0.5, 0.5, 0.485, 0.235, 0.235, 0.235, 0.235),
        *(0.183, 0.1815, 0.18, 0.075, 0.0725, 0.07, 0.0675, 0.065, 0.0625, 0.06, 0.04, 0.04, 0.04, 0.03, 0.03, 0.03),
    )

    def curve(self, layers: int) -> Sequence[float]:
        known = len(self.shares)
        # The middle of layer i lies at the relative depth (i + ½) / layers.
        at = [self.shares[(2 * layer + 1) * known // (2 * layers)] for layer in range(layers)]
        return [1.0] * FULL_LAYERS + at[FULL_LAYERS:]

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        if not self.shares or sorted(self.shares, reverse=True) != list(self.shares):
            raise FieldError("shares", "give shares of the vision tokens that never rise, one for each layer")
        if len(self.shares) == config.text_config.num_hidden_layers and min(self.shares[:FULL_LAYERS]) < 1:
            raise FieldError("shares", f"the first {FULL_LAYERS} layers keep all; begin with 1.0, 1.0")
