"""Rendered pages in the file formats of the real data sets, a pure function of a seed.

A page is a grid of cells with at most one character each. `make_page` draws one page, `write_pages` writes a
whole training and test set. Files, in the order of the flow:

    vocabulary.py    page alphabet, question templates and their words
    difficulty.py    what "easy", "medium" and "hard" mean, knob by knob
    page.py          PageSpec (size, difficulty), Content (what stands where), Page (with picture)
    documents.py charts.py scene.py dense.py boxes.py    one kind each: what it shows, what is asked
    content.py       random labels, words and places that several kinds use
    drawing.py background.py    from content to picture
    generate.py      seed, split, kind and index -> page
    records.py benchmarks.py writer.py    pages -> files
"""

from proxyv.data.synthetic.benchmarks import BENCHMARKS
from proxyv.data.synthetic.difficulty import DIFFICULTIES, Difficulty
from proxyv.data.synthetic.generate import KINDS, make_page
from proxyv.data.synthetic.page import Page, PageSpec
from proxyv.data.synthetic.vocabulary import ALPHABET, QUESTION_WORDS, TEXT_CHARACTERS
from proxyv.data.synthetic.writer import write_pages

__all__ = [
    "ALPHABET",
    "BENCHMARKS",
    "DIFFICULTIES",
    "KINDS",
    "QUESTION_WORDS",
    "TEXT_CHARACTERS",
    "Difficulty",
    "Page",
    "PageSpec",
    "make_page",
    "write_pages",
]
