"""P-Sigmoid: the share of vision tokens falls over the decoder layers as a sigmoid that a budget places.

Paper: "Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction", arXiv 2412.00556.
Source of the details: its abstract, figures and tables; there is no public code. Approximate: in layer l the share is
1 / (1 + exp(steepness · (l − midpoint))), the first layers keep all, and the midpoint follows from the budget. The
paper finds the steepness for each budget by Bayesian optimisation. Read off its figure for LLaVA-1.5-7B, it is 0.356 at
2.24 T, 0.481 at 2.66 T (the default here), 0.457 at 3.38 T, 0.748 at 4.27 T and 0.933 at 5.2 T, of 9.18 T in full.
Deviations: here the budget is the mean share over all layers, i.e. the share of the vision tokens' FLOPs where a layer
costs in proportion to the tokens that enter it. Text, and the part that grows with the square of the rows, are left
out, so that the drops do not depend on the prompt's length. By our arithmetic, 9.18 T are 576 vision and about 113 text
tokens (so FastV's half comes to 5.5 T, as published, and G-Search's curve to 3.8 T, published as 3.95 T), and the five
budgets are mean shares of 0.10, 0.16, 0.25, 0.37 and 0.49. Which text rows and heads rank, candidates and positions
are as in g_search.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from proxyv.domains import Count, Positive, PositiveShare
from proxyv.errors import FieldError
from proxyv.methods.g_search import FULL_LAYERS, CurveMethod
from proxyv.model.configuration import ProxyVConfig


@dataclass(frozen=True)
class PSigmoid(CurveMethod):
    """A sigmoid over depth."""

    name: ClassVar[str] = "p_sigmoid"

    steepness: Positive = 0.4808  # per layer
    budget: PositiveShare = 0.16  # mean share over all layers
    full_layers: Count = FULL_LAYERS  # the first layers, which keep all

    def curve(self, layers: int) -> Sequence[float]:
        # Between these midpoints every share runs from 0 to 1, up to rounding.
        low, high = -40 / self.steepness, layers + 40 / self.steepness
        for _ in range(100):  # the mean rises with the midpoint: halve until the ends are neighbouring floats
            middle = (low + high) / 2
            if sum(self._shares(layers, middle)) < self.budget * layers:
                low = middle
            else:
                high = middle
        return self._shares(layers, high)

    def _shares(self, layers: int, midpoint: float) -> list[float]:
        # The logistic function as a tanh, which cannot overflow.
        falling = [0.5 - 0.5 * math.tanh(self.steepness * (layer - midpoint) / 2) for layer in range(layers)]
        return [1.0] * self.full_layers + falling[self.full_layers :]

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        layers = config.text_config.num_hidden_layers
        if not 1 <= self.full_layers < layers:
            raise FieldError("full_layers", f"{self.full_layers} must lie between 1 and {layers - 1}")
        least = self.full_layers / layers
        if not least < self.budget <= 1:
            raise FieldError(
                "budget",
                f"{self.budget} must lie above {least:.3g}, which the layers that keep all take, and at most at 1",
            )
