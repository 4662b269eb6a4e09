"""Words to locate, in the manner of RefCOCO: the answer is the box around the named word."""

import numpy as np

from proxyv.pages.kinds.content import scatter, words
from proxyv.pages.page import Content, PageSpec, TextRun
from proxyv.pages.vocabulary import LOCATE


def compose(rng: np.random.Generator, spec: PageSpec) -> Content:
    """Several words, each in a row of its own at a random column."""
    runs = scatter(rng, spec, words(rng, min(spec.difficulty.box_words, spec.rows)))
    turns = [(LOCATE.format(run.text), box_answer(run, spec)) for run in runs]
    return Content(runs, turns, boxes={run.text: run.box(spec.cell) for run in runs})


def box_answer(run: TextRun, spec: PageSpec) -> str:
    """ "[x1, y1, x2, y2]": top left and bottom right of the run's cells, as fractions of width and height."""
    edges = (
        (run.column, spec.columns),
        (run.row, spec.rows),
        (run.column + len(run.text), spec.columns),
        (run.row + 1, spec.rows),
    )
    return f"[{', '.join(_two_decimals(*edge) for edge in edges)}]"


def _two_decimals(part: int, whole: int) -> str:
    # In whole numbers, because formatting floats would round 1/8 down and 3/8 up.
    hundredths = (200 * part + whole) // (2 * whole)
    return f"{hundredths // 100}.{hundredths % 100:02d}"
