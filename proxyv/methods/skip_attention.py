"""Skip attention: from a layer on, vision tokens are keys and values only; each still goes through the FFN.

Paper: arXiv 2505.15816, section 2 ("ATN" is what vision tokens skip), finetuned like the baseline. A vision token
computes no query and attends to nothing; in place of an attention output it takes its own value through the output
projection, as if it saw itself alone, so no parameters are added. Text and newlines attend to all rows before them.
Deviations: the paper's description is all there is, no code is public. Where query heads share value heads, each takes
the value of its group. The last layer updates vision tokens too, although nothing reads them: the baseline does so as
well, and the published reductions of FLOPs count it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers.cache_utils import Cache

from proxyv.methods.shared.text_queries import TextQueryLayer, TextQueryMethod, TextQueryPlan


@dataclass(frozen=True)
class SkipAttention(TextQueryMethod):
    """From `start_layer` on, vision tokens do not attend."""

    name: ClassVar[str] = "skip_attention"
    trained: ClassVar[bool] = True

    def mixin(self) -> type[TextQueryLayer]:
        return SkipAttentionLayer


class SkipAttentionLayer(TextQueryLayer):
    """With images, only text and newlines attend; all rows go through the output projection and the FFN."""

    def forward_with_images(self, hidden: torch.Tensor, plan: TextQueryPlan, cache: Cache | None) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        attended, value = self.attend_queries(hidden, plan.text, plan, cache)
        own = plan.text.gather_vision(value.transpose(1, 2))  # (C, P, G, head size)
        groups = attended.shape[-1] // (own.shape[2] * own.shape[3])
        own = own.repeat_interleave(groups, 2).flatten(2)  # (C, P, H · head size)
        return self.project_and_feed(hidden, plan.text.scatter(own, attended))
