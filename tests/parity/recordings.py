"""Reading recorded cases of the published model (format: the folder's own README.md).

The recordings stand in the authors' packed order [vision | newlines | text]; ours stand in reading order. `Case` maps
one onto the other through the sorted order of each kind of row, which is the same in both.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

IMAGE_ID = -200
MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
STD = np.float32([0.26862954, 0.26130258, 0.27577711])


HERE = Path(__file__).parent / "golden"  # the recordings that travel with the project


def golden_folder() -> Path:
    """The folder of recordings: PROXYV_GOLDEN_DIR, or those that travel with the project."""
    return Path(os.environ.get("PROXYV_GOLDEN_DIR", HERE))


def find_cases(folder: Path) -> list[tuple[str, str]]:
    """Every (variant, case) that the folder holds."""
    return [(p.parts[-3], p.stem) for p in sorted(folder.glob("*/cases/*.json"))]


@dataclass(frozen=True)
class Contents:
    """What a case holds, known without reading its tensors. A folder may record less than the one here."""

    meta: dict
    names: frozenset[str]  # of its tensors

    @classmethod
    def of(cls, folder: Path, variant: str, case: str) -> "Contents":
        """Read the JSON file, and the header of the tensor file."""
        stem = folder / variant / "cases" / case
        with safe_open(stem.with_suffix(".safetensors"), "pt") as tensors:
            return cls(json.loads(stem.with_suffix(".json").read_text()), frozenset(tensors.keys()))

    @property
    def single(self) -> bool:
        """One sample. The states and the cache of a batch were recorded with dummy crops, which we do not have."""
        return len(self.meta["images_per_sample"]) == 1

    @property
    def logits(self) -> bool:
        """Logits of newlines and text."""
        return "logits_newline_text" in self.names

    @property
    def loss(self) -> bool:
        """A training loss; the others were recorded for inference only."""
        return self.meta.get("loss") is not None

    @property
    def cache(self) -> bool:
        """Sums and norms of the cache that can be compared."""
        return self.single and "kv_sum" in self.names

    @property
    def states(self) -> bool:
        """Outputs of decoder layers."""
        return self.single and any(re.fullmatch(r"state\.layer\d+\.out", name) for name in self.names)

    @property
    def decoding(self) -> bool:
        """Greedy decoding that can be trusted, of the case or of its samples one by one."""
        whole = bool(self.meta.get("generate", {}).get("trustworthy")) and "gen_ids" in self.names
        return whole or bool(self.meta.get("alone"))


KINDS = ("logits", "loss", "cache", "states", "decoding")


def cases_with(folder: Path, kind: str) -> list[tuple[str, str]]:
    """Every (variant, case) of the folder that recorded one of `KINDS`."""
    return [found for found in find_cases(folder) if getattr(Contents.of(folder, *found), kind)]


def raw_images(folder: Path) -> list[tuple[str, str]]:
    """(folder, name) of every image that was recorded before its crops too."""
    found = []
    for file in sorted(folder.glob("images*/*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if "raw_rgb_u8" in tensors.keys():  # noqa: SIM118 (no mapping)
                found.append((file.parent.name, file.stem))
    return found


def pixels(crops: torch.Tensor) -> torch.Tensor:
    """(C, 3, S, S) uint8 → float32 as the recordings normalised them."""
    scaled = (crops.numpy().astype(np.float64) * (1 / 255)).astype(np.float32).transpose(0, 2, 3, 1)
    return torch.from_numpy(np.ascontiguousarray(((scaled - MEAN) / STD).transpose(0, 3, 1, 2)))


@dataclass
class Sample:
    """One sample in our form: text and placeholders in reading order, no padding."""

    input_ids: list[int]
    labels: list[int]
    crops: list[torch.Tensor]


class Case:
    """One recorded case."""

    def __init__(self, folder: Path, variant: str, case: str, tokens_per_crop: int, image_token_id: int):
        stem = folder / variant / "cases" / case
        self.folder, self.tokens_per_crop, self.image_token_id = folder, tokens_per_crop, image_token_id
        self.meta = json.loads(stem.with_suffix(".json").read_text())
        self.tensors = load_file(stem.with_suffix(".safetensors"))

    @cached_property
    def samples(self) -> list[Sample]:
        """The recorded inputs; a text-only sample's zero dummy is no image here."""
        images = iter(self.meta["images"])
        ids, mask = self.tensors["input_ids"].long(), self.tensors["attention_mask_in"].bool()
        labels = self.tensors["labels_in"].long()
        samples = []
        for b in range(len(ids)):
            of_sample = [next(images) for _ in range(self.meta["images_per_sample"][b])]
            row = ids[b][mask[b]].tolist()
            crops = [self._crops(image["name"]) for image in of_sample] if IMAGE_ID in row else []
            samples.append(self._expand(self._cut(row), self._cut(labels[b][mask[b]].tolist(), row), crops))
        return samples

    def _crops(self, name: str) -> torch.Tensor:
        size = self.meta["image_size"]
        return pixels(load_file(self.folder / f"images{size}" / f"{name}.safetensors")["crops_u8"])

    def _cut(self, values: list[int], ids: list[int] | None = None) -> list[int]:
        """Drop what the recording truncated: text beyond `text_len` tokens."""
        text = np.cumsum([i != IMAGE_ID for i in (ids or values)])
        return [v for v, count in zip(values, text, strict=True) if count <= self.meta["packing"]["text_len"]]

    def _expand(self, ids: list[int], labels: list[int], crops: list[torch.Tensor]) -> Sample:
        counts, out, out_labels = iter(len(c) for c in crops), [], []
        for token, label in zip(ids, labels, strict=True):
            image = token == IMAGE_ID
            times = next(counts) * (self.tokens_per_crop + 1) if image else 1
            out += [self.image_token_id if image else token] * times
            out_labels += [-100 if image else label] * times
        return Sample(out, out_labels, crops)

    @property
    def truncated(self) -> bool:
        return (
            sum(i != IMAGE_ID for i in self.tensors["input_ids"].flatten().tolist())
            > sum(sum(i != self.image_token_id for i in s.input_ids) for s in self.samples)
            and len(self.samples) == 1
        )

    def batch(self, only: int | None = None) -> dict[str, torch.Tensor]:
        """Left-padded model inputs of all samples, or of one."""
        samples = self.samples if only is None else [self.samples[only]]
        length = max(len(s.input_ids) for s in samples)

        def pad(values: list[int], fill: int) -> list[int]:
            return [fill] * (length - len(values)) + values

        batch = {
            "input_ids": torch.tensor([pad(s.input_ids, 0) for s in samples]),
            "attention_mask": torch.tensor([pad([1] * len(s.input_ids), 0) for s in samples]),
            "labels": torch.tensor([pad(s.labels, -100) for s in samples]),
        }
        crops = [c for s in samples for c in s.crops]
        if crops:
            batch["pixel_values"] = torch.cat(crops)
            batch["crops_per_image"] = torch.tensor([len(c) for c in crops])
        return batch

    def rows(self, sample: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(their packed rows, our rows counted from the sample's first) of "vision", "newline" or "text"."""
        packing = self.meta["packing"]
        bounds = np.cumsum([0, packing["image_full_len"], packing["newline_len"], packing["text_len"]])
        at = {"vision": 0, "newline": 1, "text": 2}[kind]
        valid = self.tensors["attention_mask"][sample].bool().clone()
        valid[: bounds[at]], valid[bounds[at + 1] :] = False, False
        if not self.samples[sample].crops and kind != "text":
            valid[:] = False
        ids = torch.tensor(self.samples[sample].input_ids)
        is_image = ids == self.image_token_id
        step = torch.zeros_like(ids)
        step[is_image] = torch.arange(int(is_image.sum())) % (self.tokens_per_crop + 1)
        is_newline = is_image & (step == self.tokens_per_crop)
        ours = {"vision": is_image & ~is_newline, "newline": is_newline, "text": ~is_image}[kind]
        return valid.nonzero().flatten(), ours.nonzero().flatten()
