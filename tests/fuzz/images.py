"""Images: files of every mode and format, damaged, odd, and what is no image at all."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from proxyv.data.images import BadImageError, open_image
from proxyv.errors import UserError
from tests.fuzz.nasty import Damage, damages
from tests.fuzz.outcomes import Category
from tests.tiny import random_image, tiny_model

FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "RGB"),
}
KINDS = [(kind, mode) for kind, modes in FORMATS.items() for mode in modes]
SIZES = ((60, 40), (1, 1), (1, 150), (199, 1), (3, 640), (1, 5000), (300, 300))
NO_IMAGES = ("fifo", "folder", "device", "loop", "absent", "empty", "text", "link out")


@dataclass(frozen=True)
class Picture:
    """An image file: format, mode and size, and what was done to its bytes; or a name of NO_IMAGES."""

    kind: str
    mode: str = ""
    size: tuple[int, int] = (60, 40)
    damage: Damage | None = None


def encoded(picture: Picture) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    image = random_image(*picture.size)
    grey = picture.mode in ("I", "F", "I;16")
    image.convert("L").convert(picture.mode).save(file, picture.kind) if grey else image.convert(picture.mode).save(
        file, picture.kind
    )
    return file.getvalue() if picture.damage is None else picture.damage.of(file.getvalue())


def special(kind: str, file: Path) -> Path:
    """Something that is no image under the file's name."""
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "link out":
        file.symlink_to("/etc/hostname")
    elif kind in ("empty", "text"):
        file.write_text("" if kind == "empty" else "no image")
    return Path("/dev/zero") if kind == "device" else file


@cache
def processor():
    """Of a tiny model."""
    return tiny_model()[1]


def attempt(picture: Picture, folder: Path) -> None:
    """Open the image and make its crops: RGB, and of the size that it has."""
    file = folder / "image.png"
    if picture.kind in NO_IMAGES:
        file = special(picture.kind, file)
    else:
        file.write_bytes(encoded(picture))
    try:
        image = open_image(file)
    except BadImageError as error:
        raise UserError(str(error)) from error
    assert picture.kind not in NO_IMAGES, f"{picture.kind} was opened"
    assert image.mode == "RGB" and min(image.size) > 0
    if picture.damage is None:
        assert image.size == picture.size, f"{image.size} for {picture.size}"
    crops = processor().image_processor.crops(image)
    assert all(crop.shape == (56, 56, 3) for crop in crops)
    assert isinstance(image, Image.Image)


good = st.builds(lambda kind, size: Picture(*kind, size), st.sampled_from(KINDS), st.sampled_from(SIZES))
broken = st.builds(lambda kind, damage: Picture(*kind, damage=damage), st.sampled_from(KINDS), damages)
IMAGES = Category("images", st.one_of(broken, good, st.builds(Picture, st.sampled_from(NO_IMAGES))), attempt)
