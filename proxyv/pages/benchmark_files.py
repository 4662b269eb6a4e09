"""Held-out pages in the columns of the real benchmarks, one question per page.

One question per page keeps the rows independent: the spread of a score follows from their number alone.
The columns are those that lmms-eval reads, and they mean the same: in refcoco `answer` holds the expressions
that name a region, and the region itself is `bbox`, (x, y, width, height) in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from proxyv.pages.generate import make_page, stream
from proxyv.pages.page import Page, PageSpec, Turn
from proxyv.pages.vocabulary import VALUE_OF, WHICH

BenchmarkRow = dict[str, Any]
STRING = datasets.Value("string")
IMAGE = datasets.Image()
# As many answers as TextVQA has annotators.
ANNOTATORS = 10


@dataclass(frozen=True)
class BenchmarkFile:
    """One parquet file: the pages it takes, the turns it may ask, and its columns.

    Benchmarks of the same kind take turns with its pages (`first`, then every `step`-th), so they share none.
    """

    kind: str
    columns: dict[str, Any]
    row: Callable[[str, Page, Turn], BenchmarkRow]
    may_ask: Callable[[int, Turn], bool] = lambda index, turn: True
    first: int = 0
    step: int = 1

    def dataset(self, spec: PageSpec, *, seed: int, pages: int) -> datasets.Dataset:
        """`pages` rows; row i is a pure function of (spec, seed, i)."""
        rows = []
        for number in range(pages):
            index = self.first + self.step * number
            page = make_page(self.kind, index, spec, seed=seed, split="test")
            turns = [turn for turn in page.turns if self.may_ask(index, turn)]
            turn = turns[stream(seed, "test", self.kind, index, "question").integers(len(turns))]
            row = {"image": page.image, "question": turn[0]} | self.row(str(index), page, turn)
            rows.append({column: row[column] for column in self.columns})
        return datasets.Dataset.from_list(rows, features=datasets.Features(self.columns))

    def write(self, path: Path, spec: PageSpec, *, seed: int, pages: int) -> int:
        """Write the parquet file, images embedded; returns the number of rows."""
        dataset = self.dataset(spec, seed=seed, pages=pages)
        with no_progress_bars():
            dataset.to_parquet(path)
        return len(dataset)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """The caller shows one bar for all files; those of `datasets` would only interrupt it."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _docvqa(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    return {"questionId": name, "answers": [turn[1]]}


def _is_value_question(turn: Turn) -> bool:
    return turn[0].startswith(VALUE_OF.format(""))


def _chartqa(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    # As in ChartQA: plain look-ups are the machine-made part, questions over the whole chart the human one.
    return {"type": "augmented" if _is_value_question(turn) else "human", "answer": turn[1]}


def _chartqa_may_ask(index: int, turn: Turn) -> bool:
    # ChartQA's two parts are of equal size.
    return _is_value_question(turn) == (index % 2 == 0)


def _textvqa(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    answers, tokens = [turn[1]] * ANNOTATORS, page.transcript.split()
    return {"question_id": int(name), "answers": answers, "ocr_tokens": tokens}


def _textvqa_may_ask(index: int, turn: Turn) -> bool:
    # lmms-eval lowers the letters of TextVQA questions, so these name no word of the page.
    return turn[1].isalpha() and turn[0].islower()


def _ocrbench(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    question, answer = turn
    if question not in WHICH.values():
        sort = "Scene Text-centric VQA"
    else:
        sort = "Digit String Recognition" if answer.isdigit() else "Non-Semantic Text Recognition"
    return {"dataset": "synthetic", "answer": [answer], "question_type": sort}


def _parsing(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    return {"id": name, "answer": turn[1]}


def _refcoco(name: str, page: Page, turn: Turn) -> BenchmarkRow:
    word = turn[0].split()[-1]
    return {"question_id": name, "answer": [word], "bbox": list(page.boxes[word])}


BENCHMARK_FILES: dict[str, BenchmarkFile] = {
    "docvqa": BenchmarkFile(
        kind="documents",
        columns={"questionId": STRING, "question": STRING, "image": IMAGE, "answers": [STRING]},
        row=_docvqa,
    ),
    "chartqa": BenchmarkFile(
        kind="charts",
        columns={"type": STRING, "question": STRING, "image": IMAGE, "answer": STRING},
        row=_chartqa,
        may_ask=_chartqa_may_ask,
    ),
    "textvqa": BenchmarkFile(
        kind="scene",
        columns={
            "question_id": datasets.Value("int32"),
            "question": STRING,
            "image": IMAGE,
            "answers": [STRING],
            "ocr_tokens": [STRING],
        },
        row=_textvqa,
        may_ask=_textvqa_may_ask,
        step=2,
    ),
    "ocrbench": BenchmarkFile(
        kind="scene",
        columns={
            "dataset": STRING,
            "question": STRING,
            "image": IMAGE,
            "answer": [STRING],
            "question_type": STRING,
        },
        row=_ocrbench,
        first=1,
        step=2,
    ),
    "parsing": BenchmarkFile(
        kind="dense",
        columns={"id": STRING, "image": IMAGE, "question": STRING, "answer": STRING},
        row=_parsing,
    ),
    "refcoco": BenchmarkFile(
        kind="boxes",
        columns={
            "question_id": STRING,
            "image": IMAGE,
            "question": STRING,
            "answer": [STRING],
            "bbox": [datasets.Value("float32")],
        },
        row=_refcoco,
    ),
}
