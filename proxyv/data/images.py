"""Opening images that may be missing, truncated, huge, or something else than their name says.

Whatever reads an image file or its bytes does it through `open_image`: training, evaluation, `generate`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from proxyv.errors import UserError, one_line, reason
from proxyv.model.rgb import to_rgb, upright_size

# What an image may have at most. All are looked up in its header, before its pixels take memory.
MAX_PIXELS = 89_478_485  # width × height; Pillow warns of decompression bombs from here on
MAX_SIDE = 20_000  # pixels of the longer side: "pad" makes a square of it
MAX_ASPECT = 200  # longer side by shorter side
MAX_BYTES = 300 * 2**20  # of the file: MAX_PIXELS uncompressed, and a little more
MAX_SCANS = 50  # of a progressive JPEG, which is decoded once a scan; common ones have ten

# Formats told by a signature at their beginning. Others that Pillow knows run programs or accept anything.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # begins a segment; other pairs are within scans
_SEGMENTS = 10_000  # of a JPEG; common ones have some dozens
_URL = re.compile(r"(https?|ftp|s3|gs|hf|data|file):", re.IGNORECASE)


class BadImageError(Exception):
    """An image that cannot be read; the message says which and why."""


def open_image(source: Path | bytes) -> Image.Image:
    """An image, wholly decoded, in RGB as `to_rgb` makes it; of an animated one the first frame.

    Its content says the format (one of `FORMATS`), not its name. Raises BadImageError, also for an image beyond the
    limits above, and for anything that is no regular file, which is never waited for; UserError where other code told
    Pillow to let truncated images pass.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UserError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES: is on, broken images would pass half grey; turn it off")
    with _naming_image(source):
        return _decode(source if isinstance(source, bytes) else _read(source))


def image_size(source: Path | bytes) -> tuple[int, int]:
    """(width, height) in pixels of what `open_image` makes of an image, from its header alone; as `upright_size` says.

    Raises BadImageError for what the header shows to be none.
    """
    with _naming_image(source):
        if isinstance(source, Path):
            _check_file(source)
        elif not source:
            raise ValueError("it is empty")
        with _header(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            return upright_size(image)


@contextmanager
def _naming_image(source: Path | bytes) -> Iterator[None]:
    """Whatever goes wrong over an image becomes a BadImageError that names it."""
    name = "image" if isinstance(source, bytes) else f"image {one_line(source)}"
    try:
        yield
    except FileNotFoundError as error:
        url = "; URLs are not fetched, download it" if _URL.match(str(source)) else ""
        raise BadImageError(f"{name} does not exist{url}") from error
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name} cannot be read (its content is none of {', '.join(FORMATS)})") from error
    except Exception as error:  # broken files make Pillow raise errors of a dozen classes
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else one_line(reason(error))
        raise BadImageError(f"{name} cannot be read ({why})") from error


def locate_image(folder: Path, path: object, allow_outside: bool = False) -> Path:
    """The file at `path`, as data names it, below `folder`.

    A path that leaves the folder by "..", or names another place, is refused unless `allow_outside`; links inside the
    folder are followed wherever they lead, since image folders are often made of them and data cannot make any.

    Raises BadImageError for a path that is refused, and for what is no path at all.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadImageError(f"the image is named by {one_line(repr(path))}, which is no path")
    if _URL.match(path):
        raise BadImageError(f"image {one_line(path)}: URLs are not fetched; download it and give its path")
    may_leave = os.path.isabs(path) or ".." in path.split(os.sep)
    target, inside = (os.path.abspath(folder / path), os.path.abspath(folder)) if may_leave else ("", "")
    if may_leave and not allow_outside and not Path(target).is_relative_to(inside):
        raise BadImageError(f"image {one_line(path)} lies outside {folder}; move it, or set allow_outside: true")
    return folder / path


def blank_image(size: int) -> Image.Image:
    """A black image of one crop, in place of a bad one."""
    return Image.new("RGB", (size, size))


def _read(path: Path) -> bytes:
    """A regular file's content. Raises ValueError as `_check_file` does."""
    _check_file(path)
    return path.read_bytes()


def _check_file(path: Path) -> None:
    """Raise ValueError for anything but a regular file, unopened: opening a FIFO would wait for ever."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")


def _decode(encoded: bytes) -> Image.Image:
    """The first frame in RGB. Raises ValueError for what is beyond the limits, and what Pillow raises."""
    if not encoded:
        raise ValueError("it is empty")
    if encoded.startswith(b"\xff\xd8") and _scans(encoded) > MAX_SCANS:
        raise ValueError(f"a JPEG with more than {MAX_SCANS} scans")
    with _header(io.BytesIO(encoded)) as image:
        rgb = to_rgb(image)
    _check_size(*rgb.size)
    rgb.info.clear()  # an orientation that was followed must not be followed again
    return rgb


@contextmanager
def _header(file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet. Raises ValueError for a size beyond the limits."""
    Image.init()
    with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        _check_size(*image.size)
        yield image


def _scans(jpeg: bytes) -> int:
    """How many scans a JPEG has up to its end marker; what other files are appended behind it does not count.

    Raises ValueError for countless segments, through which Pillow would walk one by one.
    """
    place, scans = 2, 0
    for _ in range(_SEGMENTS):
        marker = _JPEG_MARKER.search(jpeg, place)
        if marker is None or marker[1] == b"\xd9":
            return scans
        scans += marker[1] == b"\xda"
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    raise ValueError(f"a JPEG with more than {_SEGMENTS:,} segments")


def _check_size(width: int, height: int) -> None:
    """Raise ValueError for a size beyond the limits."""
    if min(width, height) < 1:
        raise ValueError(f"{width} × {height} pixels")
    longer, shorter = max(width, height), min(width, height)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels are more than {MAX_PIXELS:,}")
    if longer > MAX_SIDE or longer > MAX_ASPECT * shorter:
        raise ValueError(
            f"{width} × {height} pixels: a side may have {MAX_SIDE:,} pixels, and {MAX_ASPECT} times those of the other"
        )
