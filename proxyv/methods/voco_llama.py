"""VoCo-LLaMA: learned tokens behind an image take up what it shows; text sees them alone, never the image.

Paper: "VoCo-LLaMA: Towards Vision Compression with Large Language Models", CVPR 2025, arXiv 2406.12275. Source of the
details: the authors' public code (github.com/Yxxxb/VoCo-LLaMA). The tokens stand behind the image and see it; what
follows sees them in its place, in every layer, through the mask alone. Positions stay true. It is trained with the
plain loss on answers. Behind the prefill, the image's keys and values are dropped from the cache: decoding gets
cheap, the prefill saves nothing.
Deviations: one token as in the paper (the public code sets two). The tokens are vectors of their own behind an image's
last newline, one set for every image, not a word of the vocabulary between two line breaks. Images stay where the
prompt has them, so text before one stays visible behind it (the public code moves the image to the front and hides
all before it). Rows of an image see text, tokens of earlier images and their own image, with all its crops; of
several images, none sees another's rows. Batches may mix samples with and without images (the public code's
offsets slip there), and the cache is cut for real (there, the mask hides what stays).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.cache_utils import Cache

from proxyv.domains import Count
from proxyv.errors import UserError
from proxyv.methods.mask_attention import MaskedLayer, MaskPlan
from proxyv.model.attention import BACK_ENDS, mask_for
from proxyv.model.cache import CachedRows, set_cached_rows
from proxyv.model.families import mix_into_layers
from proxyv.model.layout import Layout
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import pack_left


@dataclass(frozen=True)
class VoCoLLaMA(Method):
    """`tokens` learned vectors behind each image."""

    name: ClassVar[str] = "voco_llama"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("reducer",)
    needs: ClassVar[tuple[str, ...]] = ("dense_mask",)
    text_reads_newlines: ClassVar[bool] = False

    tokens: Count = 1

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        llm = model.language_model
        mix_into_layers(llm, VoCoLayer, range(llm.config.num_hidden_layers))
        model.reducer = VoCoTokens(self.tokens, llm.config.hidden_size, llm.config.initializer_range)

    def merge(self, model: ProxyVPreTrainedModel, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        return vision._replace(extra=model.reducer(len(prompt.layout.crops_of_image)))

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> VoCoPlan:
        """Raises UserError for a back-end that takes no mask over all pairs of rows."""
        back_end = model.language_model.config._attn_implementation
        if back_end not in BACK_ENDS:
            raise UserError(f"attention: '{back_end}' cannot take voco_llama's dense mask; use sdpa or eager")
        device = embeddings.device
        images = rows_of_images(layout)
        visible = within_images(layout, images)[:, None].to(device)
        index, valid = pack_left(layout.valid & ~carried(layout, images))
        rows = CachedRows(valid.to(device), layout.valid.sum(1).to(device), not bool(valid.all()), layout.prompt_length)
        return VoCoPlan(mask_for(visible, back_end, embeddings.dtype), rows, index.to(device))


class VoCoTokens(nn.Module):
    """Learned vectors (n, D), drawn at the scale of fresh word embeddings."""

    def __init__(self, count: int, hidden_size: int, scale: float):
        super().__init__()
        self.scale = scale
        self.vectors = nn.Parameter(torch.empty(count, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw them."""
        nn.init.normal_(self.vectors, std=self.scale)

    def forward(self, images: int) -> torch.Tensor:
        """(images, n, D), the same for each."""
        return self.vectors.repeat(images, 1, 1)


def rows_of_images(layout: Layout) -> torch.Tensor:
    """(B, L) int64: the image, counted over the batch, whose vision token, newline or learned token a row is; −1 at
    text and padding."""
    assert layout.extra_rows is not None  # `merge` put them there
    image = torch.full((layout.valid.numel(),), -1, device=layout.valid.device)
    of_crop = layout.image_of_crop
    image[layout.vision_rows] = of_crop[:, None].expand_as(layout.vision_rows)
    image[layout.newline_rows] = of_crop  # after the vision rows, see `Layout`
    image[layout.extra_rows] = torch.arange(len(layout.extra_rows), device=image.device)[:, None]
    return image.view_as(layout.valid)


def carried(layout: Layout, images: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: rows for which the learned tokens stand, i.e. vision tokens and newlines."""
    return (images >= 0) & layout.given


def within_images(layout: Layout, images: torch.Tensor) -> torch.Tensor:
    """(B, L, L) bool: which row (the last dimension) each row may see; rows of an image only each other, and its
    learned tokens them."""
    same = images[:, None, :] == images[:, :, None]
    padding = ~layout.valid[:, :, None]  # may see everything, see Layout.visible
    return layout.visible() & (same | ~carried(layout, images)[:, None, :] | padding)


@dataclass
class VoCoPlan(MaskPlan):
    """What the layers of one prefill share."""

    rows: CachedRows  # what stays in the cache: text and learned tokens
    index: torch.Tensor  # (B, K) int64 which rows these are


class VoCoLayer(MaskedLayer):
    """The plain parent layer; with images, under the plan's mask, and with a cache that keeps the plan's rows."""

    self_attn: Any  # the parent layer's own

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        vision_plan: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        if vision_plan is not None and past_key_values is not None:
            set_cached_rows(past_key_values, self.self_attn.layer_idx, vision_plan.rows, vision_plan.index)
        return super().forward(hidden_states, attention_mask, vision_plan, past_key_values=past_key_values, **kwargs)
