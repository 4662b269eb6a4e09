"""One sample → what the model is fed: token ids, labels, crops.

Labels come from the chat template's own `{% generation %}` spans: the rendered conversation is tokenised once, and a
token is supervised if its characters overlap a span. A template closes the span behind the end token, so exactly
the answers and their end tokens are learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from proxyv.constants import IGNORE_INDEX
from proxyv.data.records import BadRecordError, Sample
from proxyv.errors import UserError
from proxyv.model.plain_text import tokenize
from proxyv.model.processing import ProxyVProcessor


@dataclass(frozen=True)
class Encoded:
    """One sample as arrays.

    input_ids: (L,) int64, placeholders expanded; empty for patch classification.
    labels: (L,) int64, −100 where not supervised; (P,) classes of patches for patch classification.
    crops: (C, S, S, 3) uint8, all images in reading order.
    crops_per_image: crops of each image.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    crops: np.ndarray
    crops_per_image: tuple[int, ...]

    @property
    def supervised(self) -> int:
        """Number of supervised tokens (or patches)."""
        return int((self.labels != IGNORE_INDEX).sum())


def check_template(processor: ProxyVProcessor) -> None:
    """Raise UserError where the chat template does not mark what the assistant says."""
    if not re.search(r"{%-?\s*generation\s*-?%}", processor.chat_template or ""):
        raise UserError(
            "llm.chat_template: has no {% generation %} … {% endgeneration %} around the assistant's turns; "
            "add them, or no token can be supervised"
        )


def render(processor: ProxyVProcessor, messages: Sequence[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as text, and the character spans [start, end) of what the assistant says in it.

    Raises BadRecordError where the chat template refuses the conversation, is wrong or does not end.
    """
    try:
        processor.check_chat(messages)
    except UserError as error:
        raise BadRecordError(f"cannot be rendered: {error}") from error
    texts, spans = render_jinja_template(
        conversations=[list(messages)],
        chat_template=processor.chat_template,
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    return texts[0], spans[0]


def encode_text(
    processor: ProxyVProcessor, messages: Sequence[dict[str, str]], crops_per_image: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels (L,) of a conversation, each `<image>` expanded to its crops' rows.

    Only in the user's turns, and only where there are images, `<image>` stands for one; elsewhere it is text, as are
    the names of all other control tokens.
    """
    text, spans = render(processor, [_plain(processor, message, bool(crops_per_image)) for message in messages])
    tokens, offsets = tokenize(processor.tokenizer, text)
    mark, labels = processor.image_token_id, []
    for token, (start, end) in zip(tokens, offsets, strict=True):
        # Later bytes of one character may have empty offsets; they count as one character long.
        inside = any(start < stop and max(end, start + 1) > begin for begin, stop in spans)
        labels.append(token if inside or token == mark else IGNORE_INDEX)
    input_ids = np.array(processor.expand(tokens, iter(crops_per_image)), dtype=np.int64)
    expanded = np.array(processor.expand(labels, iter(crops_per_image)), dtype=np.int64)
    return input_ids, np.where(expanded == mark, IGNORE_INDEX, expanded)


def _plain(processor: ProxyVProcessor, message: dict[str, str], has_images: bool) -> dict[str, str]:
    marks = has_images and message["role"] == "user"
    return {**message, "content": processor.plain_text(message["content"], marks=marks)}


def encode_conversation(
    processor: ProxyVProcessor, sample: Sample, images: Sequence[Image.Image], image_mode: str | None
) -> Encoded:
    """A conversation and its images. Several images are "pad"ded to one crop each, as the paper trains."""
    mode = "pad" if len(images) > 1 else image_mode
    crops = [processor.image_processor.crops(image, mode) for image in images]
    counts = tuple(len(of_image) for of_image in crops)
    input_ids, labels = encode_text(processor, sample.messages, counts)
    return Encoded(input_ids, labels, stack_crops(processor, [crop for of_image in crops for crop in of_image]), counts)


def stack_crops(processor: ProxyVProcessor, crops: Sequence[np.ndarray]) -> np.ndarray:
    """All crops as one array (C, S, S, 3) uint8; C = 0 where there are none."""
    size = processor.image_processor.crop_size
    return np.stack(crops) if crops else np.zeros((0, size, size, 3), dtype=np.uint8)
