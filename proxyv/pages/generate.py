"""From a seed and an index to a page."""

import hashlib
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from proxyv.config import PageKind
from proxyv.errors import UserError
from proxyv.pages.drawing import draw
from proxyv.pages.kinds import boxes, charts, dense, documents, scene
from proxyv.pages.page import Content, Page, PageSpec, grid_of, transcribe_grid

Split = Literal["train", "test"]

KINDS: dict[PageKind, Callable[[np.random.Generator, PageSpec], Content]] = {
    "documents": documents.compose,
    "charts": charts.compose,
    "scene": scene.compose,
    "dense": dense.compose,
    "boxes": boxes.compose,
}

# One transcript in eight belongs to the test split.
TEST_SHARE = 8


def stream(seed: int, split: Split, kind: str, index: int, purpose: str) -> np.random.Generator:
    """An independent random stream, the same in every process, for one purpose of one page.

    Names enter as checksums, so that neither Python's hash seed nor the order of a table matters.
    Raises `UserError` for a negative seed or index.
    """
    for name, number in (("seed", seed), ("index", index)):
        if number < 0:
            raise UserError(f"{name}: {number} is negative; use 0 or more")
    names = [zlib.crc32(text.encode()) for text in (split, kind, purpose)]
    return np.random.default_rng(np.random.SeedSequence([seed, index, *names]))


def split_of(kind: str, transcript: str) -> Split:
    """The only split in which a page of this kind with this transcript may appear, whatever the seed."""
    digest = hashlib.sha256(f"{kind}\n{transcript}".encode()).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "train"


def make_page(kind: str, index: int, spec: PageSpec | None = None, *, seed: int, split: Split = "train") -> Page:
    """Page `index` of a kind: a pure function of its arguments (and of the versions of NumPy and Pillow).

    Training and test pages never share their content: every transcript belongs to one split by its checksum,
    and content is drawn again until it belongs to `split`. That holds across seeds, sizes and page counts.
    Raises `UserError` for an unknown kind, or a negative seed or index.
    """
    if kind not in KINDS:
        raise UserError(f"kind: unknown page kind {kind!r}; choose one of {', '.join(KINDS)}")
    spec = spec or PageSpec()
    rng = stream(seed, split, kind, index, "content")
    while True:
        content = KINDS[kind](rng, spec)
        grid = grid_of(content.runs, spec)
        transcript = transcribe_grid(grid)
        if split_of(kind, transcript) == split:
            break
    image = draw(content, spec, stream(seed, split, kind, index, "drawing"))
    return Page(kind, image, grid, transcript, content.turns, content.boxes)
