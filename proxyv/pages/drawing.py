"""From a page's content to its image: every character on its cell, slightly off the centre."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from proxyv.pages.background import paper, scenery
from proxyv.pages.page import Content, PageSpec, TextRun
from proxyv.pages.vocabulary import BAR, BLANK

# The cell for which the lengths in a Difficulty and the two lengths below are meant.
REFERENCE_CELL = 14
# How far a character in an outermost cell may move outwards; further, the image's edge would cut it.
EDGE_SHIFT = 1.0
# Kept free at both ends of a bar, so that it does not touch its label or its value.
BAR_INSET = 2.0
# Offsets are rounded to 1/PHASES px and sizes to 1/SIZES px, so that the glyph cache stays small.
PHASES, SIZES = 2, 2


def draw(content: Content, spec: PageSpec, rng: np.random.Generator) -> Image.Image:
    """The page as an image of `spec.size`: mode RGB on a scene's background, else mode L."""
    ink = _ink(content.runs, spec, rng)
    if content.textured:
        dark = spec.difficulty.grain and rng.random() < 0.5
        pixels = scenery(rng, spec, dark)
        # The channels differ a little, so that ink is coloured; light ink lies on dark, dark ink on light.
        colour = rng.uniform(0.85, 1.0, size=3).astype(np.float32) * (255 if dark else -255)
    else:
        pixels = paper(rng, spec)
        colour = np.full(1, -255, np.float32)
    # Ink shifts the background instead of replacing it: the contrast is the same wherever the texture is.
    pixels += ink[..., None] * colour
    if spec.difficulty.noise:
        noise = rng.standard_normal(ink.shape, dtype=np.float32)
        pixels += spec.difficulty.noise * noise[..., None]
    levels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(levels if content.textured else levels[..., 0])


def _ink(runs: list[TextRun], spec: PageSpec, rng: np.random.Generator) -> np.ndarray:
    """Strength of the ink per pixel, 0 … 1, float32 of shape (height, width)."""
    (width, height), cell, difficulty = spec.size, spec.cell, spec.difficulty
    # A margin of one cell, so that characters at the edge need no clipping while they are drawn.
    canvas = np.zeros((height + 2 * cell, width + 2 * cell), np.float32)
    # Rows move apart sideways only: moved up and down one by one they would run into each other.
    row_shifts = rng.uniform(-difficulty.misalignment, difficulty.misalignment, spec.rows)
    page_shift = rng.uniform(-difficulty.misalignment, difficulty.misalignment)
    scale = cell / REFERENCE_CELL
    for run in runs:
        size = round(rng.uniform(*difficulty.font_size) * scale * SIZES) / SIZES
        contrast = np.float32(rng.uniform(*difficulty.contrast))
        shifts = rng.uniform(-difficulty.jitter, difficulty.jitter, (len(run.text), 2))
        shifts += row_shifts[run.row], page_shift
        shifts = scale * _keep_inside(shifts, run, spec)
        if run.text[0] == BAR:
            _draw_bar(canvas, run, cell, size, shifts[0], contrast)
        else:
            _draw_text(canvas, run, cell, size, shifts, contrast)
    return canvas[cell:-cell, cell:-cell]


def _keep_inside(shifts: np.ndarray, run: TextRun, spec: PageSpec) -> np.ndarray:
    """Limit the outward part of shifts (characters, x and y) in the outermost columns and rows."""
    columns = run.column + np.arange(len(run.text))
    x, y = shifts[:, 0], shifts[:, 1]
    x = np.where(columns == 0, np.maximum(x, -EDGE_SHIFT), x)
    x = np.where(columns == spec.columns - 1, np.minimum(x, EDGE_SHIFT), x)
    if run.row == 0:
        y = np.maximum(y, -EDGE_SHIFT)
    if run.row == spec.rows - 1:
        y = np.minimum(y, EDGE_SHIFT)
    return np.stack([x, y], axis=1)


def _draw_text(
    canvas: np.ndarray, run: TextRun, cell: int, size: float, shifts: np.ndarray, contrast: np.float32
) -> None:
    """Lay the run's characters on the canvas, the darker ink winning where two meet.

    canvas: float32 (height + 2 cells, width + 2 cells), written in place; shifts: (characters, 2), x and y in pixels.
    """
    for place, (character, (shift_x, shift_y)) in enumerate(zip(run.text, shifts.tolist(), strict=True)):
        if character == BLANK:
            continue
        x, phase_x = divmod(round(shift_x * PHASES), PHASES)
        y, phase_y = divmod(round(shift_y * PHASES), PHASES)
        left, top = (run.column + place) * cell + cell // 2 + x, run.row * cell + cell // 2 + y
        target = canvas[top : top + 2 * cell, left : left + 2 * cell]
        np.maximum(target, _glyph(character, size, cell, phase_x, phase_y) * contrast, out=target)


def _draw_bar(
    canvas: np.ndarray, run: TextRun, cell: int, size: float, shift: np.ndarray, contrast: np.float32
) -> None:
    """Lay one solid block over all cells of the run on the canvas, as of `_draw_text`; it moves up and down only.

    shift: (2,), x and y in pixels.
    """
    inset = round(BAR_INSET * cell / REFERENCE_CELL)
    left, right = (run.column + 1) * cell + inset, (run.column + 1 + len(run.text)) * cell - inset
    middle = (run.row + 1) * cell + cell // 2 + round(float(shift[1]))
    half_height = round(size / 3)
    canvas[middle - half_height : middle + half_height, left:right] = contrast


@lru_cache(maxsize=50_000)
def _glyph(character: str, size: float, cell: int, phase_x: int, phase_y: int) -> np.ndarray:
    """One character in the middle of a patch float32 (2 · cell, 2 · cell), 0 … 1, moved by its phases."""
    font = _font(size)
    cap_height = -font.getbbox("H", anchor="ms")[1]
    # All characters share a baseline, which centres capitals and digits and leaves "." at the foot.
    foot = (cell + phase_x / PHASES, cell + phase_y / PHASES + cap_height / 2)
    patch = Image.new("L", (2 * cell, 2 * cell))
    ImageDraw.Draw(patch).text(foot, character, fill=255, font=font, anchor="ms")
    return np.asarray(patch, np.float32) / 255


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's bundled scalable font; `size` in pixels."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which drawing needs; install a Pillow wheel")
    return font
