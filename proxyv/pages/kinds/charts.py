"""Bar charts, in the manner of ChartQA: horizontal bars, label before and value behind."""

import math

import numpy as np

from proxyv.pages.kinds.content import labels, line_rows
from proxyv.pages.page import Content, PageSpec, TextRun
from proxyv.pages.vocabulary import BAR, LARGEST, SMALLEST, VALUE_OF

VALUE_DIGITS = 2
TOP_VALUE = 99
# From this width on there is room for a blank on both sides of a bar.
WIDE_COLUMNS = 12


def compose(rng: np.random.Generator, spec: PageSpec) -> Content:
    """One bar per line, all starting in the same column, their lengths in proportion to their values.

    A value of 99 fills the width that label and value leave; every bar has one cell or more. Values differ.
    """
    rows = line_rows(rng, spec)
    names = labels(rng, spec, len(rows))
    values = rng.choice(np.arange(10, TOP_VALUE + 1), size=len(rows), replace=False).tolist()
    space = 1 if spec.columns >= WIDE_COLUMNS else 0
    bar_column = len(names[0]) + space
    longest = spec.columns - bar_column - space - VALUE_DIGITS
    runs = []
    for row, name, value in zip(rows, names, values, strict=True):
        length = math.ceil(longest * value / TOP_VALUE)
        runs += [
            TextRun(row, 0, name),
            TextRun(row, bar_column, BAR * length),
            TextRun(row, bar_column + length + space, str(value)),
        ]
    turns = [(VALUE_OF.format(name), str(value)) for name, value in zip(names, values, strict=True)]
    turns.append((LARGEST, names[values.index(max(values))]))
    turns.append((SMALLEST, names[values.index(min(values))]))
    return Content(runs, turns)
