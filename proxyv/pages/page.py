"""A page: its size, what stands where on it, and the finished image."""

from dataclasses import dataclass, field

from PIL import Image

from proxyv.errors import UserError
from proxyv.pages.difficulty import DIFFICULTIES, Difficulty
from proxyv.pages.vocabulary import BLANK

Turn = tuple[str, str]  # question, answer
PixelBox = tuple[int, int, int, int]  # x, y, width, height in pixels

MIN_ROWS, MIN_COLUMNS, MIN_CELL = 4, 7, 8


@dataclass(frozen=True)
class PageSpec:
    """Size and difficulty of a page; the image is `columns * cell` wide and `rows * cell` high, in pixels.

    Raises `UserError` for a grid that cannot hold every page kind, or a cell too small to read.
    """

    rows: int = 8
    columns: int = 8
    cell: int = 14
    difficulty: Difficulty = DIFFICULTIES["easy"]

    def __post_init__(self) -> None:
        for name, least in (("rows", MIN_ROWS), ("columns", MIN_COLUMNS), ("cell", MIN_CELL)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is too small for a page; use {least} or more")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.columns * self.cell, self.rows * self.cell


@dataclass(frozen=True)
class TextRun:
    """Characters side by side in one row, the first at `column`."""

    row: int
    column: int
    text: str

    def box(self, cell: int) -> PixelBox:
        """The pixels of the run's cells."""
        return self.column * cell, self.row * cell, len(self.text) * cell, cell


@dataclass(frozen=True)
class Content:
    """What stands on a page and what can be asked about it; `textured` pages get a scene's background."""

    runs: list[TextRun]
    turns: list[Turn]
    boxes: dict[str, PixelBox] = field(default_factory=dict)
    textured: bool = False


@dataclass(frozen=True)
class Page:
    """One finished page.

    image: mode L, or RGB for scenes, `columns * cell` by `rows * cell` pixels.
    grid: one string of length `columns` per row, a blank where a cell is empty.
    transcript: what a person would type in reading order (see `transcribe_grid`).
    turns: every question that makes sense on this page, with its answer, in a fixed order.
    boxes: the pixels (x, y, width, height) of each word that a question asks to locate.
    """

    kind: str
    image: Image.Image
    grid: list[str]
    transcript: str
    turns: list[Turn]
    boxes: dict[str, PixelBox]


def grid_of(runs: list[TextRun], spec: PageSpec) -> list[str]:
    """The page's characters, `rows` strings of length `columns`."""
    rows = [[BLANK] * spec.columns for _ in range(spec.rows)]
    for run in runs:
        rows[run.row][run.column : run.column + len(run.text)] = run.text
    return ["".join(row) for row in rows]


def transcribe_grid(grid: list[str]) -> str:
    """The lines that are not blank, stripped, every run of blanks as one, joined by line breaks."""
    return "\n".join(" ".join(line.split()) for line in grid if line.strip())
