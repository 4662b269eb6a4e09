"""Mask attention: from a layer on, vision tokens stop looking at each other. Nothing is trained and nothing is saved.

Paper: arXiv 2505.15816, section 2 and figure 2, where it shows how little a trained model loses when its later layers
lack the attention among vision tokens. A vision token sees, of all vision tokens, itself alone; text and newlines
before it stay visible. Rows of text and newlines, and decoding, are as ever. Figure 2 counts masked layers from the
last one: a share m of them is start_layer = layers · (1 − m). The default masks half of 32 layers, where the figure
has Vicuna-7B at 100 % of its score.
Deviations: the paper's description is all there is, no code is public. What the stock layers take is one dense mask
over all pairs of rows, shared by all of them: the variant saves no FLOPs in the paper either, and this leaves
everything but the mask to the baseline's own layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn

from proxyv.domains import Size
from proxyv.errors import UserError
from proxyv.methods.shared.text_queries import check_start_layer
from proxyv.model.attention import BACK_ENDS, mask_for
from proxyv.model.cache import over_cached_keys
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.families import mix_into_layers
from proxyv.model.layout import Layout
from proxyv.model.method import Method, Plan
from proxyv.model.pretrained import ProxyVPreTrainedModel


@dataclass(frozen=True)
class MaskAttention(Method):
    """From `start_layer` on (counted from 0), a vision token sees no other vision token."""

    name: ClassVar[str] = "mask_attention"
    needs: ClassVar[tuple[str, ...]] = ("dense_mask",)

    start_layer: Size = 16

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_start_layer(self.start_layer, config.text_config)

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        llm = model.language_model
        mix_into_layers(llm, MaskedLayer, range(self.start_layer, llm.config.num_hidden_layers))

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> MaskPlan:
        """Raises UserError for a back-end that takes no mask over all pairs of rows."""
        back_end = model.language_model.config._attn_implementation
        if back_end not in BACK_ENDS:
            raise UserError(f"attention: '{back_end}' cannot take mask_attention's dense mask; use sdpa or eager")
        visible = without_each_other(layout)[:, None].to(embeddings.device)
        return MaskPlan(mask_for(visible, back_end, embeddings.dtype))


def without_each_other(layout: Layout) -> torch.Tensor:
    """(B, L, L) bool: which row (the last dimension) each row may see, vision tokens not each other."""
    vision = layout.is_vision
    itself = torch.eye(layout.length, dtype=torch.bool, device=vision.device)
    return layout.visible() & (itself | ~(vision[:, :, None] & vision[:, None, :]))


@dataclass
class MaskPlan(Plan):
    """What the masked layers of one prefill share."""

    mask: torch.Tensor  # (B, 1, L, L), as the back-end reads it


class MaskedLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer: the plain parent layer; with images, under the plan's mask."""

    self_attn: Any  # the parent layer's own

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        vision_plan: MaskPlan | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        if vision_plan is not None:
            attention_mask = over_cached_keys(vision_plan.mask, kwargs.get("past_key_values"), self.self_attn.layer_idx)
        output: torch.Tensor = cast(Any, super()).forward(hidden_states, attention_mask=attention_mask, **kwargs)
        return output
