"""One order of gradients in training, whatever a micro-batch holds.

Processes that train together exchange gradients in the order in which these become ready, and where weights are sharded
too, they gather a module's weights as it is called. So each of them must run the same modules in the same order, also
one whose micro-batch happens to have no image: there, text takes the way of images, beside a blank one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from proxyv.constants import IGNORE_INDEX
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import HOOKS_INSIDE_LLM, Method, overrides


def text_needs_image(method: Method, parameters: Iterable[tuple[str, nn.Parameter]]) -> bool:
    """Whether text must take the way of images, for its gradients to come as those of images do.

    It must where anything trains outside the LLM, which has no gradient from text; where the method acts inside the
    LLM, whose layers then run otherwise with images; and where ZeRO-3 has sharded weights that text does not call. Else
    text is left alone. The batch plays no part in it, so all processes decide alike.

    parameters: module group and parameter, of all.
    """
    trains_llm = False
    for group, parameter in parameters:
        if hasattr(parameter, "ds_id"):  # ZeRO-3's mark, on frozen ones too
            return True
        if parameter.requires_grad:
            if group != "llm":
                return True
            trains_llm = True
    return trains_llm and overrides(method, HOOKS_INSIDE_LLM)


class TextBatch(NamedTuple):
    """A batch without images, for training."""

    input_ids: torch.Tensor  # (B, L) int64
    attention_mask: torch.Tensor | None  # (B, L), 0 at padding; None: no padding
    labels: torch.Tensor  # (B, L) int64, −100 where not supervised


def add_blank_image(config: ProxyVConfig, batch: TextBatch) -> tuple[TextBatch, torch.Tensor]:
    """A batch of text with one more sample behind: a blank image of one crop and a token of text, none supervised. It
    changes neither loss nor gradients: no other sample sees it, and its own gradients are zero.

    Returns the batch, (B + 1, L') with padding on the left, and pixel values (1, 3, S, S) of its only crop.
    """
    ids, vision = batch.input_ids, config.vision_config
    rows = config.tokens_per_crop + 2  # the crop, its newline, the text
    padding = (max(rows - ids.shape[1], 0), 0, 0, 1)  # columns on the left, one sample behind
    mask = torch.ones_like(ids) if batch.attention_mask is None else batch.attention_mask
    ids, mask = functional.pad(ids, padding), functional.pad(mask, padding)
    labels = functional.pad(batch.labels, padding, value=IGNORE_INDEX)
    ids[-1, -rows:-1] = config.image_token_id
    mask[-1, -rows:] = 1
    blank = torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size, device=ids.device)
    return TextBatch(ids, mask, labels), blank
