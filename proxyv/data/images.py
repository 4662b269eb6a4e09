"""Opening images that may be missing, truncated, or something else than their name says."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image


class BadImageError(Exception):
    """An image that cannot be read; the message says which and why."""


def open_image(source: Path | bytes) -> Image.Image:
    """An image, wholly decoded, in RGB; its content says the format, not its name.

    Raises BadImageError.
    """
    name = "image" if isinstance(source, bytes) else f"image {source}"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise BadImageError(f"{name} does not exist") from error
    except Exception as error:  # broken files make Pillow raise errors of a dozen classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"{name} cannot be read ({reason})") from error


def blank_image(size: int) -> Image.Image:
    """A black image of one crop, in place of a bad one."""
    return Image.new("RGB", (size, size))
