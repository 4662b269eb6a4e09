"""The layout of one prefill: which row is what, and where it stands.

Made once per prefill from the batch; the only source of positions, row indices and visibility. Rows stand in
reading order, per sample, padded to the batch. A crop takes P + 1 rows: its P vision tokens in raster order, then
one newline token. A method that merges vision tokens before the LLM shortens the layout (`resized`).

Letters in tensor comments: B samples, L rows, I images and C crops of the whole batch, P vision tokens per crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from proxyv.constants import IGNORE_INDEX
from proxyv.errors import UserError

NEWLINE_POSITIONS = ("natural", "authors")


@dataclass(frozen=True)
class Layout:
    """Index tensors of a batch; row numbers are flat, `sample * L + row`."""

    position_ids: torch.Tensor  # (B, L) int64; rotary positions, 0 at padding
    valid: torch.Tensor  # (B, L) bool; False at padding
    ranking_rows: torch.Tensor  # (B, L) bool; rows whose attention ranks vision tokens, see `find_ranking_rows`
    vision_rows: torch.Tensor  # (C, P) int64 flat rows of the vision tokens; where absent, the crop's newline
    newline_rows: torch.Tensor  # (C,) int64 flat rows of the newline tokens
    image_of_crop: torch.Tensor  # (C,) int64, counted over the batch
    crop_in_image: torch.Tensor  # (C,) int64, 0 is the whole image
    crops_of_image: tuple[int, ...]  # crops of each image
    sample_of_image: tuple[int, ...]  # the sample that each image stands in
    newline_positions: str
    prompt_length: int  # L before anything was dropped
    counts: torch.Tensor | None = None  # (C,) int64 vision tokens of each crop where they differ; the rest is absent
    extra_rows: torch.Tensor | None = None  # (I, n) int64 flat rows that a method put behind each image

    @property
    def batch_size(self) -> int:
        return self.position_ids.shape[0]

    @property
    def length(self) -> int:
        return self.position_ids.shape[1]

    @property
    def causal(self) -> bool:
        """Whether positions rise along the rows, so that the stock causal mask holds."""
        return self.newline_positions == "natural"

    @property
    def sample_of_crop(self) -> torch.Tensor:
        """(C,) the sample that each crop stands in."""
        return self.newline_rows // self.length

    @property
    def present(self) -> torch.Tensor | None:
        """(C, P) bool, True where a crop has that many vision tokens; None: everywhere."""
        if self.counts is None:
            return None
        return torch.arange(self.vision_rows.shape[1], device=self.counts.device) < self.counts[:, None]

    @property
    def given(self) -> torch.Tensor:
        """(B, L) bool, True at rows of the prompt itself: neither padding nor put there by a method."""
        if self.extra_rows is None:
            return self.valid
        flat = self.valid.flatten().clone()
        flat[self.extra_rows.flatten()] = False
        return flat.view_as(self.valid)

    @property
    def is_vision(self) -> torch.Tensor:
        """(B, L) bool, True at vision tokens (newlines are not)."""
        flat = torch.zeros(self.position_ids.numel(), dtype=torch.bool, device=self.vision_rows.device)
        flat[self.vision_rows.flatten()] = True
        flat[self.newline_rows] = False
        return flat.view(self.batch_size, self.length)

    @property
    def start_of_image(self) -> torch.Tensor:
        """(C,) position of the first vision token of the image that each crop belongs to."""
        first_row = self.vision_rows[:, 0]
        starts = torch.zeros_like(self.image_of_crop)
        first_crops = self.crop_in_image == 0
        starts[self.image_of_crop[first_crops]] = self.position_ids.flatten()[first_row[first_crops]]
        return starts[self.image_of_crop]

    @property
    def rows_of_image(self) -> torch.Tensor:
        """(I,) rows that each image takes, newlines included; rows that a method put behind it are not."""
        crops = torch.tensor(self.crops_of_image, device=self.newline_rows.device)
        last = crops.cumsum(0) - 1
        return self.newline_rows[last] - self.vision_rows[last - crops + 1, 0] + 1

    def to(self, device: torch.device) -> Layout:
        """The same layout with its tensors on `device`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)

    def stock_mask(self) -> torch.Tensor | None:
        """What the stock causal LM needs as `attention_mask`: (B, L) where its own causal mask holds, else the
        full (B, 1, L, L) bool visibility (only with the authors' newline positions)."""
        if self.causal:
            return None if bool(self.valid.all()) else self.valid.long()
        return self.visible()[:, None]

    def visible(self) -> torch.Tensor:
        """(B, L, L) bool: which row (the last dimension) each row may see."""
        before = self.position_ids[:, None, :] <= self.position_ids[:, :, None]
        # A padding row may see everything: a row without any key is NaN on some back-ends.
        return (before & self.valid[:, None, :]) | ~self.valid[:, :, None]

    def resized(self, tokens: int, counts: torch.Tensor | None = None, extra: int = 0) -> tuple[Layout, torch.Tensor]:
        """The layout with fewer vision tokens per crop, or with extra rows behind each image.

        Positions are counted anew; samples are padded on the left.

        Args:
            tokens: vision tokens per crop, at most P.
            counts: (C,) how many of them each crop has, where that differs.
            extra: rows to put behind the last newline of each image.

        Returns the layout and (B, new L) int64: the old row of each new one, within the sample (of an extra row: any).
        """
        device, length = self.vision_rows.device, self.length
        counts = None if counts is None else counts.to(device)
        kept = torch.arange(self.vision_rows.shape[1], device=device).expand_as(self.vision_rows)
        drop = kept >= (tokens if counts is None else counts[:, None])
        keep = self.valid.flatten().clone()
        keep[self.vision_rows[drop]] = False

        # Sort keys leave room for extra rows behind each row; what goes sorts first, where the padding will be.
        row = torch.arange(length, device=device)
        key = torch.where(keep.view_as(self.valid), 2 * row, -1)
        slots, extra_key = self._extra_keys(extra)
        key, order = torch.cat([key, extra_key], 1).sort(dim=1, stable=True)
        size = int((key >= 0).sum(1).max())
        order, valid = order[:, -size:], key[:, -size:] >= 0
        index = order.clamp(max=length - 1)

        place = torch.zeros(self.batch_size, length + extra_key.shape[1], dtype=torch.long, device=device)
        place.scatter_(1, order, torch.arange(size, device=device).expand_as(order))
        place += torch.arange(self.batch_size, device=device)[:, None] * size
        flat = place[:, :length].flatten()
        newline_rows = flat[self.newline_rows]
        resized = replace(
            self,
            position_ids=_positions(valid),
            valid=valid,
            ranking_rows=self.ranking_rows.gather(1, index) & valid & (order < length),
            vision_rows=torch.where(drop, newline_rows[:, None], flat[self.vision_rows])[:, :tokens],
            newline_rows=newline_rows,
            counts=counts,
            extra_rows=place[slots[0], slots[1]] if extra else None,
        )
        return resized._with_newline_positions(), index

    def _extra_keys(self, extra: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Where `extra` new rows of each image stand: their samples (I, 1) and columns (I, extra) among all rows, and
        the sort keys (B, new columns) that bring them behind the image; −1 in columns without a row."""
        device = self.vision_rows.device
        samples = torch.tensor(self.sample_of_image, device=device)
        in_sample = torch.arange(len(samples), device=device) - torch.searchsorted(samples, samples)
        columns = in_sample[:, None] * extra + torch.arange(extra, device=device)
        width = extra * max(self.sample_of_image.count(sample) for sample in set(self.sample_of_image))
        key = torch.full((self.batch_size, width), -1, device=device)
        last_crops = torch.tensor(self.crops_of_image, device=device).cumsum(0) - 1
        key[samples[:, None], columns] = (2 * (self.newline_rows[last_crops] % self.length) + 1)[:, None]
        return (samples[:, None], columns + self.length), key

    def _with_newline_positions(self) -> Layout:
        """Move the newlines of later crops to where the authors' released weights expect them."""
        if self.newline_positions == "natural":
            return self
        late = self.crop_in_image > 0
        rows_of_crop = self.vision_rows.shape[1] + 1 if self.counts is None else self.counts[late] + 1
        position_ids = self.position_ids.clone()
        position_ids.view(-1)[self.newline_rows[late]] -= rows_of_crop
        return replace(self, position_ids=position_ids)


def make_layout(
    is_image: torch.Tensor,
    attention_mask: torch.Tensor | None,
    crops_per_image: Sequence[int],
    tokens_per_crop: int,
    newline_positions: str = "natural",
    labels: torch.Tensor | None = None,
) -> Layout:
    """Find every crop's rows in a batch.

    Args:
        is_image: (B, L) bool, True at image placeholders.
        attention_mask: (B, L), 0 at padding; None for no padding.
        crops_per_image: number of crops of each image of the batch, in reading order.
        tokens_per_crop: P, vision tokens per crop without its newline.
        newline_positions: "natural", or "authors": the newline of crop j ≥ 1 takes the position of the newline
            one crop earlier, as in the authors' released weights (arXiv 2505.15816, public code).
        labels: (B, L), −100 where not supervised.

    Raises UserError where placeholders and images do not match, naming the sample.
    """
    valid = torch.ones_like(is_image) if attention_mask is None else attention_mask.bool()
    samples = _check_placeholders(is_image, crops_per_image, tokens_per_crop + 1)
    rows = is_image.flatten().nonzero().view(-1, tokens_per_crop + 1)
    counts = torch.tensor(list(crops_per_image), dtype=torch.long)
    image_of_crop = torch.repeat_interleave(torch.arange(len(counts)), counts)
    first_crop = torch.cumsum(counts, 0) - counts
    crop_in_image = torch.arange(len(image_of_crop)) - first_crop[image_of_crop]
    return Layout(
        _positions(valid),
        valid,
        find_ranking_rows(valid, labels),
        rows[:, :-1],
        rows[:, -1],
        image_of_crop.to(rows.device),
        crop_in_image.to(rows.device),
        tuple(crops_per_image),
        samples,
        newline_positions,
        is_image.shape[1],
    )._with_newline_positions()


def find_ranking_rows(valid: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """(B, L) bool: the rows from which an answer is predicted first. In training every row right before a supervised
    span, at inference (and in a sample without any) the last row of the prompt."""
    last = torch.zeros_like(valid)
    row = torch.arange(valid.shape[1], device=valid.device)
    last.scatter_(1, (row * valid).argmax(1, keepdim=True), True)
    if labels is None:
        return last
    supervised = labels.to(valid.device) != IGNORE_INDEX
    before_span = torch.zeros_like(valid)
    before_span[:, :-1] = ~supervised[:, :-1] & supervised[:, 1:] & valid[:, :-1]
    return torch.where(before_span.any(1, keepdim=True), before_span, last)


def _positions(valid: torch.Tensor) -> torch.Tensor:
    return (valid.long().cumsum(1) - 1).clamp(min=0)


def _check_placeholders(is_image: torch.Tensor, crops_per_image: Sequence[int], rows_per_crop: int) -> tuple[int, ...]:
    """Walk the images along the samples; every sample's placeholders must be whole images. Returns the sample that
    each image stands in."""
    images = iter(crops_per_image)
    samples: list[int] = []
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
            samples.append(sample)
        if taken != found:
            raise UserError(
                f"sample {sample}: {found} image placeholder rows, but its images take {taken}; "
                "make text and images with the same processor, and do not cut the text inside an image"
            )
    left = sum(1 for _ in images)
    if left:
        raise UserError(f"{left} image(s) without a placeholder; put one <image> mark in the text per image")
    return tuple(samples)
