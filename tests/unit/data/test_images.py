"""Opening images: what keeps its content, what is refused, and that all who open one do it alike."""

import io
import os
import resource
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from proxyv.data.images import MAX_SCANS, BadImageError, blank_image, locate_image, open_image
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.rgb import to_rgb
from tests.tiny import random_image

RAMP = np.linspace(0, 255, 12).round().astype(np.uint8).reshape(3, 4)  # (H, W), black to white
NOISE = np.asarray(random_image(40, 30))


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey(values):
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_ordinary_images_keep_their_pixels(form, mode):
    image = Image.fromarray(NOISE).convert(mode)
    assert np.array_equal(open_image(encoded(image, form)), image.convert("RGB"))


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (Image.fromarray(NOISE), "JPEG"),
        (Image.fromarray(NOISE).convert("L"), "JPEG"),
        (Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
        (Image.fromarray(NOISE).convert("CMYK"), "TIFF"),
        (Image.fromarray(NOISE).convert("YCbCr"), "TIFF"),
        (Image.fromarray(NOISE).convert("P"), "PNG"),
        (Image.fromarray(NOISE).convert("P"), "GIF"),
        (Image.fromarray(NOISE), "WEBP"),
        (Image.fromarray(NOISE), "JPEG2000"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_other_formats_are_decoded_as_pillow_does(image, form):
    content = encoded(image, form)
    assert np.array_equal(open_image(content), Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (RAMP.astype(np.uint16) * 257, "PNG"),
        (RAMP.astype(np.uint16) * 257, "TIFF"),
        (RAMP.astype(np.uint16) * 257, "PPM"),
        (RAMP.astype(np.int32) * 257, "TIFF"),  # integers within 16 bits
        (RAMP.astype(np.int32), "TIFF"),  # within 8 bits
        (RAMP.astype(np.int32) * 2**20 - 2**25, "TIFF"),  # beyond: from the smallest to the largest
        (RAMP.astype(np.float32) / 255, "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32) * 1e6 - 77.0, "TIFF"),
    ],
)
def test_wide_values_are_scaled_not_clipped(values, form):
    assert np.array_equal(open_image(encoded(Image.fromarray(values), form)), grey(RAMP))


@pytest.mark.parametrize("form", ["PNG", "PPM"])
def test_a_dark_16_bit_image_stays_dark(form):
    assert np.asarray(open_image(encoded(Image.fromarray(np.full((3, 4), 200, np.uint16)), form))).max() == 1


def test_values_that_have_no_range():
    constant = Image.fromarray(np.full((3, 4), -5.0, np.float32))
    assert np.asarray(to_rgb(constant)).max() == 0
    with pytest.raises(BadImageError, match="not finite"):
        open_image(encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF"))


def transparent(mode):
    """A picture whose left half is fully transparent over black."""
    image = Image.fromarray(NOISE).convert("LA" if mode == "LA" else "RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 20, 30))
    image.putalpha(alpha)
    solid = image.convert("RGB")
    solid.paste((255, 255, 255), (0, 0, 20, 30))
    return image, solid


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_transparency_is_white(mode, form):
    image, expected = transparent(mode)
    assert np.array_equal(open_image(encoded(image, form)), expected)
    assert np.array_equal(to_rgb(image), expected)


def test_transparent_palettes_and_colours_are_white():
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    expected = [[[255, 255, 255], [40, 50, 60]], [[40, 50, 60], [255, 255, 255]]]
    for form in ("PNG", "GIF"):
        assert np.asarray(open_image(encoded(palette, form, transparency=0))).tolist() == expected
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert np.asarray(open_image(encoded(colour, transparency=(1, 2, 3)))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_half_transparency_is_mixed_with_white():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 51))
    assert np.asarray(open_image(encoded(image))).tolist() == [[[204] * 3] * 2] * 2


@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (3, "ROTATE_180"), (6, "ROTATE_270"), (8, "ROTATE_90")])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_followed_once(orientation, turn, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(NOISE), form, exif=exif)
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    if form == "TIFF":
        stored = Image.fromarray(NOISE)  # Pillow turns these itself
    upright = stored if turn is None else stored.transpose(Image.Transpose[turn])
    opened = open_image(content)
    assert np.array_equal(opened, upright) and np.array_equal(to_rgb(opened), upright)


def test_broken_metadata_does_not_spoil_an_image():
    content = encoded(Image.fromarray(NOISE), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(content).size == (40, 30)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_animations_show_their_first_frame(form):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    opened = open_image(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    assert opened.size == (20, 10)
    assert np.abs(np.asarray(opened).astype(int) - [255, 0, 0]).max() < 8


def png_header(width, height):
    """A PNG that promises a size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg_header(width, height):
    """A JPEG that promises a size and holds a few bytes."""
    content = bytearray(encoded(Image.fromarray(NOISE), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize("header", [png_header, jpeg_header])
@pytest.mark.parametrize(("width", "height"), [(1, 65000), (65000, 1), (30000, 30000), (10000, 9999), (300, 1), (1, 0)])
def test_sizes_are_refused_from_the_header(header, width, height):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImageError, match="pixels|cannot be read"):
        open_image(header(width, height))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_long_images_within_the_limits_are_read():
    assert open_image(encoded(Image.new("1", (100, 20000)))).size == (100, 20000)


def test_a_jpeg_of_countless_scans_is_refused():
    content = encoded(Image.fromarray(NOISE), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(BadImageError, match="scans"):
        open_image(content[:last] + content[last:-2] * MAX_SCANS + content[-2:])
    with pytest.raises(BadImageError, match="segments"):
        open_image(content[:2] + b"\xff\xfe\0\2" * 20_000 + content[2:])
    film = b"ftyp" + b"\xff\xda\0\0" * 200  # a phone's photo with a film behind it
    assert open_image(content + film).size == (40, 30)


BROKEN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n",
    "zeros": bytes(1000),
    **{f"half {f}": encoded(Image.fromarray(NOISE), f)[:-200] for f in ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP")},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_one_line(tmp_path, name):
    path = tmp_path / "page.png"
    path.write_bytes(BROKEN[name])
    for source in (path, BROKEN[name]):
        with pytest.raises(BadImageError) as raised:
            open_image(source)
        assert "\n" not in str(raised.value) and "0x" not in str(raised.value)
    with pytest.raises(BadImageError, match="page.png"):
        open_image(path)


def special_files(folder):
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.png"))
    names = ["fifo.png", "folder.png", "loop.png", "dead.png", "socket.png", "none.png", "a" * 300, "nul\0.png"]
    return server, [folder / name for name in names] + ["/dev/zero", "/dev/null", "/dev/tty", "https://a.b/c.png"]


def test_what_is_no_file_is_no_image_and_is_not_waited_for(tmp_path):
    server, paths = special_files(tmp_path)
    messages = []

    def look():
        for path in map(type(tmp_path), paths):
            with pytest.raises(BadImageError) as raised:
                open_image(path)
            messages.append(str(raised.value))

    thread = threading.Thread(target=look, daemon=True)
    began = time.perf_counter()
    thread.start()
    thread.join(timeout=20)
    server.close()
    assert len(messages) == len(paths) and time.perf_counter() - began < 10
    assert not any("\n" in message or "\0" in message for message in messages)
    assert "no regular file" in messages[0] and "folder" in messages[1] and "URLs are not fetched" in messages[-1]


def test_a_file_of_a_terabyte_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadImageError, match="bytes, more than"):
        open_image(tmp_path / "huge.png")


def test_truncated_images_cannot_be_let_through(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match="LOAD_TRUNCATED_IMAGES"):
        open_image(BROKEN["half JPEG"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.png", "lies outside"),
        ("a/../../secret.png", "lies outside"),
        ("/etc/passwd", "lies outside"),
        ("..", "lies outside"),
        ("", "no path"),
        (None, "no path"),
        (7, "no path"),
        ("a\0b.png", "no path"),
        ("https://a.b/c.png", "URLs are not fetched"),
        ("data:image/png;base64,AAAA", "URLs are not fetched"),
    ],
)
def test_paths_stay_inside_the_folder(tmp_path, path, message):
    with pytest.raises(BadImageError, match=message) as raised:
        locate_image(tmp_path / "images", path)
    assert "\n" not in str(raised.value)


def test_paths_inside_the_folder_and_links_are_followed(tmp_path):
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir(), elsewhere.mkdir()
    Image.fromarray(NOISE).save(elsewhere / "a.png")
    (images / "linked").symlink_to(elsewhere)
    for path in ("linked/a.png", "./linked/a.png", "b/../linked/a.png", str(images / "linked" / "a.png")):
        if ".." not in path:
            assert open_image(locate_image(images, path)).size == (40, 30)
        assert locate_image(images, path)
    around = images / ".." / "images"
    assert locate_image(around, str(images / "linked" / "a.png")) and locate_image(around, "b/../a.png")
    with pytest.raises(BadImageError, match="lies outside"):
        locate_image(tmp_path / "image", str(images / "a.png"))  # a name that begins alike
    assert open_image(locate_image(images, "../elsewhere/a.png", allow_outside=True)).size == (40, 30)
    assert open_image(locate_image(images, str(elsewhere / "a.png"), allow_outside=True)).size == (40, 30)


def test_the_processor_sees_what_open_image_gives():
    processor = ProxyVImageProcessor(crop_size=28, tokens_per_crop=4)
    image, _ = transparent("RGBA")
    sixteen = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for one in (image, sixteen):
        direct, opened = processor.crops(one, "pad"), processor.crops(open_image(encoded(one)), "pad")
        assert np.array_equal(direct, opened)


def test_the_content_says_the_format_not_the_name(tmp_path):
    (tmp_path / "page.jpg").write_bytes(encoded(Image.fromarray(NOISE), "GIF"))
    image = open_image(tmp_path / "page.jpg")
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_nothing_else_opens_images():
    opening = [path.name for path in (CHECKOUT / "proxyv").rglob("*.py") if "Image.open(" in path.read_text()]
    assert sorted(opening) == ["images.py", "model_card.py"]  # and the example on the card


def test_a_blank_image_is_black():
    assert np.asarray(blank_image(5)).shape == (5, 5, 3) and not np.asarray(blank_image(5)).any()
