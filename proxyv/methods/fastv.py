"""FastV: half of the vision tokens leave before the third decoder layer, those that the last text token looks at least.

Paper: "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language
Models", ECCV 2024, arXiv 2403.06764. Source of the details: the authors' public code (github.com/pkunlp-icler/FastV).
At the entrance of layer K, the attention that layer K − 1 has computed ranks the tokens: its softmax, the mean over
heads, in the row of the last prompt token. What is left keeps its positions, and decoding drops nothing more.
Deviations: candidates are each image's vision tokens, never its newlines, with the same share for every image, in
batches, and padding gets no attention (the public code ranks the first sample of a batch, for one block whose start
and length are passed by hand). Only the ranking row's attention is computed again, so that the layers keep their fast
back-end. Trained with labels, rows right before a supervised span rank. K = 0 is refused: in the public code it means
a random choice. Decoding with the cache places each token by its true position, as the authors' transformers port
does; their first code, which has no cache, ranks anew by every decoded token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxyv.domains import Count, ShareBelowOne
from proxyv.errors import FieldError
from proxyv.methods.shared.dropping import DroppingMethod
from proxyv.model.configuration import ProxyVConfig


@dataclass(frozen=True)
class FastV(DroppingMethod):
    """A share `drop` of an image's vision tokens leaves at the entrance of `layer`, which counts from 0."""

    name: ClassVar[str] = "fastv"
    ranks_by_layer_before: ClassVar[bool] = True

    layer: Count = 2  # K
    drop: ShareBelowOne = 0.5  # R

    def schedule(self, layers: int) -> dict[int, float]:
        return {self.layer: 1 - self.drop}

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        super().check(config, tokens)
        last = config.text_config.num_hidden_layers - 1
        if not 1 <= self.layer <= last:
            raise FieldError("layer", f"{self.layer} has no layer before it that could rank; use 1 to {last}")
