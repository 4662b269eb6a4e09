"""Rendered pages in the file formats of the real data sets, a pure function of a seed.

A page is a grid of cells with at most one character each. `make_page` draws one page, `write_pages` writes a
whole training and test set. Files, in the order of the flow:

    vocabulary.py    page alphabet, question templates and their words
    difficulty.py    what "easy", "medium" and "hard" mean, knob by knob
    page.py          PageSpec (size, difficulty), Content (what stands where), Page (with its image)
    kinds/           one kind a file: what it shows, what is asked
    drawing.py background.py    from content to image
    generate.py      seed, split, kind and index -> page
    records.py benchmark_files.py writer.py    pages -> files
    random_text.py benchmark_columns.py benchmark_rows.py    the public benchmarks' columns, without meaning
    ensure.py        a recipe's pages, written before they are first needed
"""

from proxyv.pages.benchmark_files import BENCHMARK_FILES
from proxyv.pages.difficulty import DIFFICULTIES, Difficulty
from proxyv.pages.generate import KINDS, make_page
from proxyv.pages.page import Page, PageSpec
from proxyv.pages.vocabulary import ALPHABET, QUESTION_WORDS, TEXT_CHARACTERS
from proxyv.pages.writer import write_pages

__all__ = [
    "ALPHABET",
    "BENCHMARK_FILES",
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
