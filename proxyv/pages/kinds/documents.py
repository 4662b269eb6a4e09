"""Key-value documents, in the manner of DocVQA: a label, a gap, a value of three digits on each line."""

import numpy as np

from proxyv.pages.kinds.content import labels, line_rows
from proxyv.pages.page import Content, PageSpec, TextRun
from proxyv.pages.vocabulary import VALUE_OF

VALUE_DIGITS = 3


def compose(rng: np.random.Generator, spec: PageSpec) -> Content:
    """Lines at random rows; label and value at random columns with one blank or more between them."""
    rows = line_rows(rng, spec)
    values = rng.choice(np.arange(100, 1000), size=len(rows), replace=False)
    runs, turns = [], []
    for row, label, value in zip(rows, labels(rng, spec, len(rows)), values, strict=True):
        last = spec.columns - VALUE_DIGITS
        column = int(rng.integers(last - len(label)))
        value_column = int(rng.integers(column + len(label) + 1, last + 1))
        runs += [TextRun(row, column, label), TextRun(row, value_column, str(value))]
        turns.append((VALUE_OF.format(label), str(value)))
    return Content(runs, turns)
