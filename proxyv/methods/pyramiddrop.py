"""PyramidDrop: in stages, most vision tokens leave between decoder layers; the text's attention says which.

Paper: "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
CVPR 2025, arXiv 2410.17247. Source of the details: the authors' public code (github.com/Cooperx521/PyramidDrop).
At the entrance of a boundary layer, its own queries and keys rank the tokens; shares are of the original count, and
positions are counted anew. As published, that ranking also computes values and throws them away.
Deviations: candidates are each image's vision tokens, never its newlines, with the same share for every image (the
public code takes one block per sample); key heads are shared among query heads as the LLM does (the public ranking
fails there); a training sample without a supervised span ranks by its last row, where the public code skips it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxyv.domains import PositiveShare, Size
from proxyv.errors import FieldError
from proxyv.methods.shared.dropping import DroppingMethod
from proxyv.model.configuration import ProxyVConfig


@dataclass(frozen=True)
class PyramidDrop(DroppingMethod):
    """Before layer `layers[i]`, keep a share `keep[i]` of an image's original vision tokens."""

    name: ClassVar[str] = "pyramiddrop"
    compacts_positions: ClassVar[bool] = True

    layers: tuple[Size, ...] = (8, 16, 24)
    keep: tuple[PositiveShare, ...] = (0.5, 0.25, 0.125)

    def schedule(self, layers: int) -> dict[int, float]:
        return dict(zip(self.layers, self.keep, strict=True))

    def count(self, tokens: int, share: float) -> int:
        return int(tokens * share)  # as published

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        last = config.text_config.num_hidden_layers - 1
        if len(self.layers) != len(self.keep) or not self.layers:
            raise FieldError("keep", "give one share for each of method.layers")
        if sorted(set(self.layers)) != list(self.layers) or self.layers[-1] > last:
            raise FieldError("layers", f"{list(self.layers)} must rise, between 0 and {last}")
        if sorted(self.keep, reverse=True) != list(self.keep):
            raise FieldError("keep", f"{list(self.keep)} must fall")
