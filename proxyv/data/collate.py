"""Samples → one batch of tensors, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from proxyv.constants import IGNORE_INDEX
from proxyv.data.training_data import Item
from proxyv.model.processing import ProxyVProcessor


class Collator:
    """Batches of conversations, or of pages for patch classification (which have no `input_ids`)."""

    def __init__(self, processor: ProxyVProcessor):
        self.processor = processor

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """One batch.

        Returns `input_ids`, `attention_mask`, `labels` (B, L), left-padded to the longest; for batches with images
        `pixel_values` (C, 3, S, S) float32 and `crops_per_image` (images,) int64, in reading order; and `counts`
        (len(COUNTS),), what was skipped on the way. Patch classification: `pixel_values`, `labels` (B, P), `counts`.
        """
        samples = [encoded for encoded, _ in items]
        batch = {"counts": torch.from_numpy(np.sum([counts for _, counts in items], axis=0))}
        if any(sample.crops_per_image for sample in samples):
            crops = np.concatenate([sample.crops for sample in samples])
            batch["pixel_values"] = torch.from_numpy(self.processor.image_processor.normalise(crops))
        if not len(samples[0].input_ids):
            return {**batch, "labels": torch.from_numpy(np.stack([sample.labels for sample in samples]))}
        if "pixel_values" in batch:
            batch["crops_per_image"] = torch.tensor([n for sample in samples for n in sample.crops_per_image])
        ids = [sample.input_ids for sample in samples]
        return {
            **batch,
            "input_ids": _left_padded(ids, self.processor.tokenizer.pad_token_id),
            "attention_mask": _left_padded([np.ones_like(row) for row in ids], 0),
            "labels": _left_padded([sample.labels for sample in samples], IGNORE_INDEX),
        }


def _left_padded(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[len(target) - len(row) :] = torch.from_numpy(row)
    return padded
