"""The layout of one prefill: which row is what, and where it stands.

Made once per prefill from the batch; the only source of positions, row indices and visibility. Rows stand in
reading order, per sample, padded to the batch. A crop takes P + 1 rows: its P vision tokens in raster order, then
one newline token. A method that merges vision tokens before the LLM shortens the layout (`resized`).

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from proxyv.config import NewlinePositions
from proxyv.constants import IGNORE_INDEX
from proxyv.errors import UserError
from proxyv.model.rows import count_positions

NEWLINE_POSITIONS: tuple[NewlinePositions, ...] = get_args(NewlinePositions)


@dataclass(frozen=True)
class Layout:
    """Index tensors of a batch; row numbers are flat, `sample * L + row`.

    Where crops differ in their vision tokens, some are absent. In `vision_rows` an absent one has its crop's newline
    row, so whatever is put into both is put into vision rows first and into newline rows after them.
    """

    position_ids: torch.Tensor  # (B, L) int64; rotary positions, 0 at padding
    valid: torch.Tensor  # (B, L) bool; False at padding
    ranking_rows: torch.Tensor  # (B, L) bool; rows whose attention ranks vision tokens, see `find_ranking_rows`
    vision_rows: torch.Tensor  # (C, P) int64 flat rows of the vision tokens; where absent, the crop's newline
    newline_rows: torch.Tensor  # (C,) int64 flat rows of the newline tokens
    image_of_crop: torch.Tensor  # (C,) int64, counted over the batch
    crop_in_image: torch.Tensor  # (C,) int64, 0 is the whole image
    crops_of_image: tuple[int, ...]  # crops of each image
    sample_of_image: tuple[int, ...]  # sample of each image
    newline_positions: str  # of `NEWLINE_POSITIONS`
    prompt_length: int  # L before anything was dropped
    counts: torch.Tensor | None = None  # (C,) int64 vision tokens of each crop; the rest is absent; None: all have P
    extra_rows: torch.Tensor | None = None  # (I, X) int64 flat rows that a method put behind each image

    @property
    def batch_size(self) -> int:
        """B."""
        return self.position_ids.shape[0]

    @property
    def length(self) -> int:
        """L."""
        return self.position_ids.shape[1]

    @property
    def causal(self) -> bool:
        """Whether positions rise along the rows, so that the stock causal mask holds."""
        return self.newline_positions == "natural"

    @property
    def sample_of_crop(self) -> torch.Tensor:
        """(C,) int64, the sample of each crop."""
        return self.newline_rows // self.length

    @property
    def first_crops(self) -> torch.Tensor:
        """(I,) int64, the first crop of each image."""
        counts = torch.tensor(self.crops_of_image, device=self.newline_rows.device)
        return counts.cumsum(0) - counts

    @property
    def last_newlines(self) -> torch.Tensor:
        """(I,) int64 flat rows, the last newline of each image."""
        counts = torch.tensor(self.crops_of_image, device=self.newline_rows.device)
        return self.newline_rows[counts.cumsum(0) - 1]

    @property
    def present(self) -> torch.Tensor | None:
        """(C, P) bool, False where a vision token is absent; None: all are there."""
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
        flat[self.newline_rows] = False  # after the vision rows, see the class
        return flat.view(self.batch_size, self.length)

    @property
    def start_of_image(self) -> torch.Tensor:
        """(C,) int64, the position of the first vision token of each crop's image."""
        first_rows = self.vision_rows[self.first_crops, 0]  # (I,)
        return self.position_ids.flatten()[first_rows][self.image_of_crop]

    @property
    def rows_of_image(self) -> torch.Tensor:
        """(I,) int64, rows that each image takes, newlines included; rows that a method put behind it are not."""
        return self.last_newlines - self.vision_rows[self.first_crops, 0] + 1

    def stock_mask(self) -> torch.Tensor | None:
        """What the stock causal LM needs as `attention_mask`: where its own causal mask holds, None without padding and
        else (B, L) int64; with the authors' newline positions the whole visibility, (B, 1, L, L) bool."""
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

        Each row takes none, one or more rows of the new layout, which follow each other in reading order. Positions
        are counted anew, and samples are padded on the left. Two samples of text (t), an image of one crop with three
        vision tokens (v) and its newline (n), and padding (.), under `tokens=1, extra=1` (e):

            before   t  v  v  v  n  t      .  .  t  t  t  t
            takes    1  1  0  0  2  1      0  0  1  1  1  1
            place    0  1        2  4            1  2  3  4
            after    t  v  n  e  t         .  t  t  t  t

        Args:
            tokens: vision tokens per crop, at most P.
            counts: (C,) int64, how many of them each crop has, where that differs.
            extra: rows to put behind the last newline of each image.

        Returns the layout and (B, new L) int64: the old row of each new one, within the sample; of an extra row and
        of padding it is any.
        """
        token = torch.arange(self.vision_rows.shape[1], device=self.vision_rows.device)
        counts = None if counts is None else counts.to(token.device)
        dropped = (token >= (tokens if counts is None else counts[:, None])).expand_as(self.vision_rows)
        takes = self.valid.flatten().long()
        takes[self.vision_rows[dropped]] = 0
        takes[self.last_newlines] += extra

        place, valid, index = _lay_out(takes.view_as(self.valid))
        place = (place + torch.arange(len(place), device=place.device)[:, None] * valid.shape[1]).flatten()
        ranking_rows = torch.zeros_like(valid)
        ranking_rows.view(-1)[place[self.ranking_rows.flatten() & (takes > 0)]] = True
        newline_rows = place[self.newline_rows]
        extra_rows = place[self.last_newlines][:, None] + 1 + torch.arange(extra, device=place.device)
        resized = replace(
            self,
            position_ids=count_positions(valid),
            valid=valid,
            ranking_rows=ranking_rows,
            vision_rows=torch.where(dropped, newline_rows[:, None], place[self.vision_rows])[:, :tokens],
            newline_rows=newline_rows,
            counts=counts,
            extra_rows=extra_rows if extra else None,
        )
        return resized._with_newline_positions(), index

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
        labels: (B, L) int64, −100 where not supervised.

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
        count_positions(valid),
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
    span, at inference (and in a sample without any) the last row of the prompt.

    Args:
        valid: (B, L) bool, False at padding.
        labels: (B, L) int64, −100 where not supervised; None at inference.
    """
    last = torch.zeros_like(valid)
    row = torch.arange(valid.shape[1], device=valid.device)
    last.scatter_(1, (row * valid).argmax(1, keepdim=True), True)
    if labels is None:
        return last
    supervised = labels.to(valid.device) != IGNORE_INDEX
    before_span = torch.zeros_like(valid)
    before_span[:, :-1] = ~supervised[:, :-1] & supervised[:, 1:] & valid[:, :-1]
    return torch.where(before_span.any(1, keepdim=True), before_span, last)


def _lay_out(takes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay rows out one behind the other, padded on the left to N, the longest sample; see `Layout.resized`.

    Args:
        takes: (B, L) int64, how many of the N new rows each old row takes.

    Returns (B, L) int64, the first new row of each old one that takes any, within the sample; (B, N) bool, False at
    padding; and (B, N) int64, the old row of each new one.
    """
    ends = takes.cumsum(1)
    size = int(ends[:, -1].max())
    padding = size - ends[:, -1:]  # (B, 1)
    new = torch.arange(size, device=takes.device) - padding  # (B, N), below 0 at padding
    return padding + ends - takes, new >= 0, torch.searchsorted(ends, new, right=True)


def _check_placeholders(is_image: torch.Tensor, crops_per_image: Sequence[int], rows_per_crop: int) -> tuple[int, ...]:
    """Walk the images along the samples; every sample's placeholders must be whole images. Returns the sample of each
    image. Raises UserError where they are not."""
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
