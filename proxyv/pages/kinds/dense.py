"""Dense pages, in the manner of document parsing: lines full of characters, to be transcribed."""

import numpy as np

from proxyv.pages.kinds.content import pick_rows
from proxyv.pages.page import Content, PageSpec, TextRun, grid_of, transcribe_grid
from proxyv.pages.vocabulary import ALPHABET, BAR, BLANK, TRANSCRIBE

# A bar is a mark of charts, not a character to type.
CHARACTERS = np.array([character for character in ALPHABET if character != BAR])
BLANK_SHARE = 0.2


def compose(rng: np.random.Generator, spec: PageSpec) -> Content:
    """Lines from the first to the last column, with single blanks here and there."""
    rows = pick_rows(rng, spec, max(1, round(spec.rows * spec.difficulty.dense_fill)))
    runs = []
    for row in rows:
        line = rng.choice(CHARACTERS, size=spec.columns)
        blank = rng.random(spec.columns) < BLANK_SHARE
        blank[[0, -1]] = False
        blank[1:] &= ~blank[:-1]  # keeps blanks single, so that the transcript loses none
        line[blank] = BLANK
        runs.append(TextRun(row, 0, "".join(line)))
    return Content(runs, [(TRANSCRIBE, transcribe_grid(grid_of(runs, spec)))])
