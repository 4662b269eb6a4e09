"""The layout of one prefill: which row is what, and where it stands.

Made once per prefill from the batch; the only source of positions, row indices and visibility. Rows stand in
reading order, per sample, padded to the batch. A crop takes P + 1 rows: its P vision tokens in raster order, then
one newline token.

Letters in tensor comments: B samples, L rows, C crops of the whole batch, P vision tokens per crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from proxyv.errors import UserError

NEWLINE_POSITIONS = ("natural", "authors")


@dataclass(frozen=True)
class Layout:
    """Index tensors of a batch; row numbers are flat, `sample * L + row`."""

    position_ids: torch.Tensor  # (B, L) int64; rotary positions, 0 at padding
    valid: torch.Tensor  # (B, L) bool; False at padding
    vision_rows: torch.Tensor  # (C, P) int64 flat rows of the vision tokens
    newline_rows: torch.Tensor  # (C,) int64 flat rows of the newline tokens
    image_of_crop: torch.Tensor  # (C,) int64, counted over the batch
    crop_in_image: torch.Tensor  # (C,) int64, 0 is the whole picture
    causal: bool  # positions rise along the rows, so the stock causal mask holds

    @property
    def batch_size(self) -> int:
        return self.position_ids.shape[0]

    @property
    def length(self) -> int:
        return self.position_ids.shape[1]

    @property
    def sample_of_crop(self) -> torch.Tensor:
        """(C,) the sample that each crop stands in."""
        return self.newline_rows // self.length

    @property
    def is_vision(self) -> torch.Tensor:
        """(B, L) bool, True at vision tokens (newlines are not)."""
        flat = torch.zeros(self.position_ids.numel(), dtype=torch.bool, device=self.vision_rows.device)
        flat[self.vision_rows.flatten()] = True
        return flat.view(self.batch_size, self.length)

    @property
    def start_of_image(self) -> torch.Tensor:
        """(C,) position of the first vision token of the image that each crop belongs to."""
        first_row = self.vision_rows[:, 0]
        starts = torch.zeros_like(self.image_of_crop)
        first_crops = self.crop_in_image == 0
        starts[self.image_of_crop[first_crops]] = self.position_ids.flatten()[first_row[first_crops]]
        return starts[self.image_of_crop]

    def to(self, device: torch.device) -> Layout:
        """The same layout with its tensors on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "causal"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def stock_mask(self) -> torch.Tensor | None:
        """What the stock causal LM needs as `attention_mask`: (B, L) where its own causal mask holds, else the
        full (B, 1, L, L) bool visibility (only with the authors' newline positions)."""
        if self.causal:
            return None if bool(self.valid.all()) else self.valid.long()
        visible = self.position_ids[:, None, :] <= self.position_ids[:, :, None]
        # A padding row may see everything: a row without any key is NaN on some back-ends.
        return ((visible & self.valid[:, None, :]) | ~self.valid[:, :, None])[:, None]


def make_layout(
    is_image: torch.Tensor,
    attention_mask: torch.Tensor | None,
    crops_per_image: Sequence[int],
    tokens_per_crop: int,
    newline_positions: str = "natural",
) -> Layout:
    """Find every crop's rows in a batch.

    Args:
        is_image: (B, L) bool, True at image placeholders.
        attention_mask: (B, L), 0 at padding; None for no padding.
        crops_per_image: number of crops of each image of the batch, in reading order.
        tokens_per_crop: P, vision tokens per crop without its newline.
        newline_positions: "natural", or "authors": the newline of crop j ≥ 1 takes the position of the newline
            one crop earlier, as in the authors' released weights (arXiv 2505.15816, public code).

    Raises UserError where placeholders and images do not match, naming the sample.
    """
    valid = torch.ones_like(is_image) if attention_mask is None else attention_mask.bool()
    _check_placeholders(is_image, crops_per_image, tokens_per_crop + 1)
    rows = is_image.flatten().nonzero().view(-1, tokens_per_crop + 1)
    counts = torch.tensor(list(crops_per_image), dtype=torch.long)
    image_of_crop = torch.repeat_interleave(torch.arange(len(counts)), counts)
    first_crop = torch.cumsum(counts, 0) - counts
    crop_in_image = torch.arange(len(image_of_crop)) - first_crop[image_of_crop]
    image_of_crop, crop_in_image = image_of_crop.to(rows.device), crop_in_image.to(rows.device)
    position_ids = (valid.long().cumsum(1) - 1).clamp(min=0)
    authors = newline_positions == "authors"
    if authors:
        late = rows[:, -1][crop_in_image > 0]
        position_ids.view(-1)[late] -= tokens_per_crop + 1
    return Layout(position_ids, valid, rows[:, :-1], rows[:, -1], image_of_crop, crop_in_image, causal=not authors)


def _check_placeholders(is_image: torch.Tensor, crops_per_image: Sequence[int], rows_per_crop: int) -> None:
    """Walk the images along the samples; every sample's placeholders must be whole images."""
    images = iter(crops_per_image)
    for sample, found in enumerate(is_image.sum(1).tolist()):
        taken = 0
        while taken < found:
            crops = next(images, None)
            if crops is None:
                raise UserError(
                    f"sample {sample}: {found} image placeholder rows but images for only {taken}; "
                    "pass as many images as there are <image> marks in the text"
                )
            taken += crops * rows_per_crop
        if taken != found:
            raise UserError(
                f"sample {sample}: {found} image placeholder rows, but its images take {taken}; "
                "make text and pictures with the same processor, and do not cut the text inside an image"
            )
    left = sum(1 for _ in images)
    if left:
        raise UserError(f"{left} image(s) without a placeholder; put one <image> mark in the text per picture")
