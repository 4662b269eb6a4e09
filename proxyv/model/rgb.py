"""Any PIL image → 8-bit RGB as a person sees it: turned upright, on white, with its whole range of values.

Ordinary RGB, L, 1, P, CMYK and YCbCr images become what Pillow's own conversion makes of them, bit for bit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BIT = 65535
_ORIENTATION = 0x0112  # EXIF's tag
_SIDEWAYS = (5, 6, 7, 8)  # its values by which width and height change places
_WIDE_MODES = ("I", "F")  # 32-bit integers and floats
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")  # of which Pillow makes mode I from 16 bits


def to_rgb(image: Image.Image) -> Image.Image:
    """The image (of an animation: the frame it stands at) in RGB, turned as its EXIF says, transparency on white.

    Values of more than 8 bits are scaled, not clipped: 16-bit ones by their type's range. 32-bit integers and floats
    have no agreed range: values within 0…255 stay (floats within 0…1 are times 255), integers within 0…65535 count as
    16-bit, anything else is stretched from its smallest to its largest.

    Raises ValueError for values that are not finite, and what Pillow raises for a broken file.
    """
    image.load()  # before its metadata, for which some formats load as well: a broken image must not pass as untagged
    upright = _upright(image)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS):
        return _grey(np.asarray(upright).astype(np.float64) / SIXTEEN_BIT)
    if upright.mode in _WIDE_MODES:
        return _grey(_in_range(np.asarray(upright)))
    if upright.has_transparency_data:
        return _on_white(upright)
    return upright.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of what `to_rgb` makes of an image, without loading it: a tag that stands behind the pixels, as a
    PNG's may, is not seen."""
    width, height = image.size
    sideways = "exif" in image.info and _orientation(image) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata, for which Pillow has many classes, does not spoil the picture
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied grey has no conversion of its own
        image = image.convert("LA")
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _in_range(values: np.ndarray) -> np.ndarray:
    """32-bit values (H, W) as shares of white (H, W) float64, by the rule of `to_rgb`."""
    integers = values.dtype.kind == "i"
    wide: np.ndarray = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("holds values that are not finite")
    low, high = float(wide.min()), float(wide.max())
    if low < 0 or high > (SIXTEEN_BIT if integers else 255):
        wide, white = wide - low, max(high - low, np.finfo(float).tiny)
    elif integers:
        white = SIXTEEN_BIT if high > 255 else 255
    else:
        white = 255 if high > 1 else 1
    return wide / white


def _grey(shares: np.ndarray) -> Image.Image:
    """Shares of white (H, W) in 0…1 as a grey RGB image."""
    return Image.fromarray(np.rint(shares * 255).astype(np.uint8)).convert("RGB")
