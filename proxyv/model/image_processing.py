"""From an image to its crops: any-resolution splitting or square padding, then normalisation.

Source: LLaVA-NeXT's any-resolution preprocessing as the published ProxyV runs it (arXiv 2505.15816).
Sizes are (width, height) in pixels, grids (columns, rows) in crops. Letters as in `proxyv.model`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from proxyv.config import ImageMode
from proxyv.errors import UserError, suggest
from proxyv.model.rgb import to_rgb

IMAGE_MODES: tuple[ImageMode, ...] = get_args(ImageMode)
# The authors' grids in crops (columns, rows): at 336 px, 336×672, 672×336, 672×672, 1008×336, 336×1008.
PAPER_GRID = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]

# Values of 0…1, per channel (arXiv 2103.00020).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

MOST_PIXELS, MOST_CROPS = 4096, 64  # of a crop's side; of a grid's side
SMALLEST_STD = 1e-3  # of values in 0…1; smaller ones only blow up rounding


class ProxyVImageProcessor(BaseImageProcessor):
    """Images → normalised square crops.

    Args:
        crop_size: S, pixels per side of a crop.
        tokens_per_crop: vision tokens that the model makes of one crop; the processor counts placeholders by it.
        image_mode: "anyres": crop 0 is the whole image squashed to S × S, the rest come from the grid that keeps
            most of it; "pad": one crop, padded to a square with the mean colour.
        grid: anyres: allowed (columns, rows), in crops; none: the whole image is the only crop.
        image_mean, image_std: normalisation per channel, for values in 0…1 (by default CLIP's).

    Raises UserError for an unknown image mode, and for numbers that are none or make no crops.
    """

    model_input_names = ["pixel_values", "crops_per_image"]

    def __init__(
        self,
        crop_size: int = 336,
        tokens_per_crop: int = 576,
        image_mode: str = "anyres",
        grid: Sequence[Sequence[int]] = PAPER_GRID,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _check_mode(image_mode)
        _check("crop_size", crop_size, 1, MOST_PIXELS, int)
        _check("tokens_per_crop", tokens_per_crop, 1, MOST_PIXELS, int)
        for pair in _listed("grid", grid):
            for side in _listed("grid", pair, 2):
                _check("grid", side, 1, MOST_CROPS, int)
        for value in _listed("image_mean", image_mean, 3):
            _check("image_mean", value, 0, 1)
        for value in _listed("image_std", image_std, 3):
            _check("image_std", value, SMALLEST_STD, 1)
        self.crop_size = crop_size
        self.tokens_per_crop = tokens_per_crop
        self.image_mode = image_mode
        self.grid = [list(pair) for pair in grid]
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def __call__(self, images: Sequence[Image.Image], image_mode: str | None = None, **kwargs: Any) -> BatchFeature:
        """Crops of several images.

        Args:
            images: PIL images of any mode and size; see `to_rgb` for what becomes of their colours.
            image_mode: overrides the saved mode for this call.

        Returns `pixel_values` (C, 3, S, S) float32 and `crops_per_image`, a list of ints, in the order given.
        """
        crops = [self.crops(image, image_mode) for image in images]
        flat = [crop for of_image in crops for crop in of_image]
        return BatchFeature(
            {
                "pixel_values": torch.from_numpy(self.normalise(np.stack(flat))),
                "crops_per_image": [len(of_image) for of_image in crops],
            }
        )

    def crops(self, image: Image.Image, image_mode: str | None = None) -> list[np.ndarray]:
        """One image's crops, each (S, S, 3) uint8, crop 0 first and then the grid's in reading order. Raises UserError
        for an unknown image mode."""
        _check_mode(image_mode or self.image_mode)
        size, image = self.crop_size, to_rgb(image)
        if (image_mode or self.image_mode) == "pad":
            colour = tuple(int(255 * mean) for mean in self.image_mean)
            side = max(image.size)
            return [np.asarray(_centred(image, (side, side), colour).resize((size, size), Image.Resampling.BICUBIC))]
        whole = image.resize((size, size), Image.Resampling.BICUBIC)
        if not self.grid:
            return [np.asarray(whole)]
        columns, rows = best_grid(image.size, [(c, r) for c, r in self.grid], size)
        target = (columns * size, rows * size)
        page = _centred(image.resize(fitted_size(image.size, target), Image.Resampling.BICUBIC), target, (0, 0, 0))
        boxes = [(c * size, r * size, (c + 1) * size, (r + 1) * size) for r in range(rows) for c in range(columns)]
        return [np.asarray(crop) for crop in (whole, *(page.crop(box) for box in boxes))]

    def count_crops(self, size: tuple[int, int]) -> int:
        """How many crops `crops` makes of an image of that size, in the saved mode."""
        if self.image_mode == "pad" or not self.grid:
            return 1
        columns, rows = best_grid(size, [(c, r) for c, r in self.grid], self.crop_size)
        return 1 + columns * rows

    def normalise(self, crops: np.ndarray) -> np.ndarray:
        """(C, S, S, 3) uint8 → (C, 3, S, S) float32."""
        scaled = (crops.astype(np.float64) * (1 / 255)).astype(np.float32)
        mean, std = (np.array(values, dtype=np.float32) for values in (self.image_mean, self.image_std))
        return np.ascontiguousarray(((scaled - mean) / std).transpose(0, 3, 1, 2))


def best_grid(size: tuple[int, int], grids: Sequence[tuple[int, int]], crop_size: int) -> tuple[int, int]:
    """The grid that keeps most of an image's pixels; ties: least waste, then first listed.

    Args:
        size: of the image.
        grids: to choose from, at least one.
        crop_size: S.
    """
    width, height = size

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        target_width, target_height = grid[0] * crop_size, grid[1] * crop_size
        scale = min(target_width / width, target_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - target_width * target_height

    return max(grids, key=merit)


def fitted_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `target` that keeps the aspect ratio of `size`; the free side is rounded up."""
    (width, height), (target_width, target_height) = size, target
    wide, high = target_width / width, target_height / height
    if wide < high:
        return target_width, min(math.ceil(height * wide), target_height)
    return min(math.ceil(width * high), target_width), target_height


def _listed(field: str, values: Any, length: int | None = None) -> Sequence[Any]:
    """The values. Raises UserError for what is no list of that length."""
    if not isinstance(values, (list, tuple)) or length not in (None, len(values)):
        raise UserError(f"vision.{field}: {values!r:.100} must be a list" + (f" of {length}" if length else ""))
    return values


def _check(field: str, value: Any, low: float, high: float, kind: Any = (int, float)) -> None:
    """Raise UserError for what is no number of this kind within these bounds."""
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        number = "a whole number" if kind is int else "a number"
        raise UserError(f"vision.{field}: {value!r:.100} must be {number} from {low} to {high}")


def _check_mode(image_mode: str) -> None:
    if image_mode not in IMAGE_MODES:
        raise UserError(f"vision.image_mode: '{image_mode}' is unknown{suggest(str(image_mode), IMAGE_MODES)}")


def _centred(image: Image.Image, size: tuple[int, int], colour: tuple[int, ...]) -> Image.Image:
    """The image on a canvas of `size`, offsets rounded down."""
    if image.size == size:
        return image
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
