"""Conversations: the next token, where the assistant speaks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from PIL import Image

from proxyv.constants import IGNORE_INDEX, IMAGE_TOKEN
from proxyv.data.encoding import Encoded, check_template, encode_conversation, render
from proxyv.data.objectives.objective import Objective, pixel_values
from proxyv.data.readers import CONVERSATIONS
from proxyv.data.records import Sample
from proxyv.model.processing import ProxyVProcessor


class LanguageModeling(Objective):
    """The model itself, on conversations with and without images."""

    takes = CONVERSATIONS

    def check_processor(self, processor: ProxyVProcessor) -> None:
        check_template(processor)

    def encode(
        self, processor: ProxyVProcessor, sample: Sample, images: Sequence[Image.Image], image_mode: str | None
    ) -> Encoded:
        return encode_conversation(processor, sample, images, image_mode)

    def batch(self, processor: ProxyVProcessor, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `labels` (B, L) int64, left-padded to the longest; for batches with images
        `pixel_values` (C, 3, S, S) float32 and `crops_per_image` (I,) int64, in reading order."""
        ids = [sample.input_ids for sample in samples]
        batch = {
            "input_ids": _left_padded(ids, processor.tokenizer.pad_token_id),
            "attention_mask": _left_padded([np.ones_like(row) for row in ids], 0),
            "labels": _left_padded([sample.labels for sample in samples], IGNORE_INDEX),
        }
        if crops_per_image := [count for sample in samples for count in sample.crops_per_image]:
            batch["pixel_values"] = pixel_values(processor, samples)
            batch["crops_per_image"] = torch.tensor(crops_per_image)
        return batch

    def show(self, processor: ProxyVProcessor, sample: Sample, encoded: Encoded) -> list[str]:
        text, _ = render(processor, sample.messages)
        images = int((encoded.input_ids == processor.image_token_id).sum())
        return [
            "--- rendered ---",
            text,
            f"--- {len(encoded.input_ids)} tokens, {images} of images, {encoded.supervised} supervised ---",
            _marked_tokens(processor, encoded),
        ]


def _left_padded(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Rows of unlike lengths, (L_i,) int64 each, as one (B, L) int64 with `value` in front."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[len(target) - len(row) :] = torch.from_numpy(row)
    return padded


def _marked_tokens(processor: ProxyVProcessor, encoded: Encoded) -> str:
    """All tokens, split by |; runs of supervised ones in ⟦ ⟧, runs of image rows as `<image>×n`."""
    kinds = np.where(encoded.input_ids == processor.image_token_id, 2, encoded.labels != IGNORE_INDEX)
    pairs = zip(kinds.tolist(), encoded.input_ids.tolist(), strict=True)
    runs = []
    for kind, members in groupby(pairs, key=lambda pair: pair[0]):
        ids = [token for _, token in members]
        pieces = "|".join(processor.tokenizer.convert_ids_to_tokens(ids))
        runs.append(f"{IMAGE_TOKEN}×{len(ids)}" if kind == 2 else f"⟦{pieces}⟧" if kind else pieces)
    return " ".join(runs)
