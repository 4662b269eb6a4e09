"""How hard a page is to read: a handful of knobs and three named settings of them."""

from dataclasses import asdict, dataclass

from proxyv.config import PageDifficulty
from proxyv.errors import UserError

Range = tuple[float, float]

# The smallest grid has 4 rows for a scene's items; a character more than 7 px off stands on another cell.
LIMITS = {
    "label_letters": (1, 2),
    "extra_lines": (0, 1),
    "dense_fill": (0, 1),
    "scene_words + scene_numbers": (1, 4),
    "box_words": (1, 20),
    "jitter + misalignment": (0, 7),
}


@dataclass(frozen=True)
class Difficulty:
    """The knobs. Lengths in pixels are meant for a cell of 14 px and grow with the cell.

    Ranges are drawn from uniformly, `contrast` and `font_size` once per run of characters.
    """

    # What stands on the page.
    label_letters: int  # letters in a label of documents and charts
    random_labels: bool  # False: A, B, C, D from top to bottom
    extra_lines: float  # documents and charts have 4 lines, and up to this share of the remaining rows more
    dense_fill: float  # share of the rows that a dense page fills
    scene_words: int  # words and numbers in a scene
    scene_numbers: int
    box_words: int  # words on a page of boxes, as far as its rows allow

    # How it looks.
    font_size: Range  # px
    jitter: float  # px, greatest offset of one character from its place, in x and in y
    misalignment: float  # px, greatest offset from the grid: of each row in x, of the whole page in y
    contrast: Range  # ink against background, as a share of black against white
    paper: float  # greatest darkening of flat paper, in grey levels of 255
    texture: float  # half the brightness span of a scene's background, in grey levels
    grain: bool  # scenes: fine texture on top of the gradient, and light ink on dark as well
    noise: float  # standard deviation of pixel noise, in grey levels

    def __post_init__(self) -> None:
        """Raises `UserError` for a knob outside the range in which every page kind can be drawn."""
        figures = asdict(self) | {
            "scene_words + scene_numbers": self.scene_words + self.scene_numbers,
            "jitter + misalignment": self.jitter + self.misalignment,
        }
        for name, (least, most) in LIMITS.items():
            if not least <= figures[name] <= most:
                raise UserError(f"difficulty: {name} is {figures[name]}; use {least} to {most}")


DIFFICULTIES: dict[PageDifficulty, Difficulty] = {
    "easy": Difficulty(
        label_letters=1,
        random_labels=False,
        extra_lines=0.0,
        dense_fill=0.5,
        scene_words=1,
        scene_numbers=1,
        box_words=3,
        font_size=(13.0, 13.0),
        jitter=1.5,
        misalignment=0.0,
        contrast=(1.0, 1.0),
        paper=0.0,
        texture=20.0,
        grain=False,
        noise=0.0,
    ),
    "medium": Difficulty(
        label_letters=1,
        random_labels=True,
        extra_lines=0.5,
        dense_fill=0.75,
        scene_words=2,
        scene_numbers=1,
        box_words=4,
        font_size=(11.5, 14.0),
        jitter=2.0,
        misalignment=1.0,
        contrast=(0.65, 1.0),
        paper=30.0,
        texture=35.0,
        grain=True,
        noise=6.0,
    ),
    "hard": Difficulty(
        label_letters=2,
        random_labels=True,
        extra_lines=1.0,
        dense_fill=1.0,
        scene_words=2,
        scene_numbers=2,
        box_words=6,
        font_size=(11.0, 14.5),
        jitter=2.0,
        misalignment=3.0,
        contrast=(0.45, 0.7),
        paper=60.0,
        texture=45.0,
        grain=True,
        noise=12.0,
    ),
}


def resolve_difficulty(difficulty: "Difficulty | str") -> Difficulty:
    """The knobs of a named difficulty; a `Difficulty` comes back as it is.

    Raises `UserError` for a name that is not in `DIFFICULTIES`.
    """
    if isinstance(difficulty, Difficulty):
        return difficulty
    if difficulty not in DIFFICULTIES:
        raise UserError(f"difficulty: unknown name {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[difficulty]
