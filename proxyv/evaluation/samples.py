"""A benchmark's samples, read from local parquet or JSON files. Nothing here ever calls the hub."""

from __future__ import annotations

import ast
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
from PIL import Image

from proxyv.data.images import BadImageError
from proxyv.errors import UserError, suggest
from proxyv.evaluation.benchmarks import Benchmark
from proxyv.evaluation.sample_images import SampleImages
from proxyv.evaluation.tables import fits, read_table, value_at
from proxyv.files import to_line

Found = TypeVar("Found")
NO_IMAGE, BAD_IMAGE = "leave the row out, or put its image there", "replace it, or fix its path"
ABSENT = (None, "", "nan")  # how data say that a row has no such option, or no context


@dataclass(frozen=True)
class BenchmarkSample:
    """One question.

    text: what is sent with the images: the question with its options, context and the prompt's other parts.
    kept: the row's `columns.keep`, and its `options` (letter → text) where it has any; ready for JSON.
    """

    index: int
    id: str
    question: str
    text: str
    references: list[str]
    kept: dict[str, Any]


class BenchmarkSamples:
    """The samples of a benchmark in file order; images are opened when they are used.

    Raises UserError where the file or a column is missing, and for the first sample that cannot be asked or scored,
    naming benchmark, path and remedy.
    """

    def __init__(self, benchmark: Benchmark, data_root: str | Path):
        self.benchmark, columns = benchmark, benchmark.columns
        self.path = Path(data_root) / benchmark.data
        rows = read_table(self.path, f"benchmark {benchmark.name}")
        _check_columns(benchmark, self.path, rows.column_names)
        folder = self.path if self.path.is_dir() else self.path.parent
        self._images = SampleImages(benchmark, rows, folder, data_root)
        of_images = [] if benchmark.images else [columns.image, *columns.marked_images.values()]
        self._texts = rows.remove_columns([name for name in of_images if name is not None])
        self._places = _places(rows, benchmark)
        if not self._places:
            raise UserError(f"benchmark {benchmark.name}: {self.path}: no samples; the data file is empty")
        self._check_samples()

    def _check_samples(self) -> None:
        """Raise UserError for the first sample that cannot be asked or scored, before any model is loaded."""
        for index in range(len(self)):
            sample = self[index]
            self.count_images(sample)
            for metric in self.benchmark.used_metrics:
                if problem := metric.problem(sample.kept):
                    raise UserError(f"{self._where(sample.id)}: {problem}; fix the row")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> BenchmarkSample:
        """Sample `index`. Raises UserError where it has no question, no answer to compare with, or no texts there."""
        row_number, part = self._places[index]
        columns, row = self.benchmark.columns, self._texts[row_number]
        name = str(row_number if columns.id is None else value_at(row, columns.id))
        name = name if part is None else f"{name}-{part}"
        question = value_at(row, columns.question)
        question = question if part is None else question[part]
        if not isinstance(question, str):
            raise self._fault(name, columns.question, question, "a text")
        options = self._options(name, row)
        context = None if columns.context is None else value_at(row, columns.context)
        text = self.benchmark.prompt.fill(question, None if context in ABSENT else str(context), options)
        kept = {column: value_at(row, column) for column in columns.keep}
        for column, value in kept.items():
            if not _fits_json(value):
                raise self._fault(name, column, value, "what JSON can hold")
        if columns.options:
            kept["options"] = options
        return BenchmarkSample(index, name, question, text, self._references(name, row, options), kept)

    def count_images(self, sample: BenchmarkSample) -> int:
        """How many images go with a sample. Raises UserError where one is missing."""
        return self._use_images(sample, self._images.count, NO_IMAGE)

    def images(self, sample: BenchmarkSample) -> list[Image.Image]:
        """The images of a sample in RGB, one or more. Raises UserError for a missing or unreadable one."""
        return self._use_images(sample, self._images.open, BAD_IMAGE)

    def image_sizes(self, sample: BenchmarkSample) -> list[tuple[int, int]]:
        """(width, height) in pixels of those images, from their headers alone. Raises UserError as `images` does."""
        return self._use_images(sample, self._images.sizes, BAD_IMAGE)

    def _use_images(self, sample: BenchmarkSample, use: Callable[[int, str], Found], remedy: str) -> Found:
        try:
            return use(self._places[sample.index][0], sample.text)
        except BadImageError as error:
            raise UserError(f"{self._where(sample.id)}: {error}; {remedy}") from error

    def _references(self, name: str, row: dict[str, Any], options: dict[str, str]) -> list[str]:
        """The accepted answers."""
        columns = self.benchmark.columns
        found = value_at(row, columns.answers)
        references = [one for one in (found if isinstance(found, list) else [found]) if one is not None]
        if not all(isinstance(one, (str, int, float)) for one in references):
            raise self._fault(name, columns.answers, references, "a text, a number or a list of them")
        if not references and any(m.uses_references for m in self.benchmark.used_metrics):
            raise UserError(f"{self._where(name)}: no answer in column '{columns.answers}'; use a scored split")
        if columns.answers_are == "texts":
            return [str(one) for one in references]
        letters = dict(enumerate(options))
        numbers = [int(one) if str(one).isdecimal() else -1 for one in references]
        if any(number not in letters for number in numbers):
            raise self._fault(name, columns.answers, references, f"an option's number, from 0 to {len(letters) - 1}")
        return [letters[number] for number in numbers]

    def _options(self, name: str, row: dict[str, Any]) -> dict[str, str]:
        """The options' texts by letter."""
        columns = self.benchmark.columns.options
        values = [value_at(row, column) for column in columns]
        if len(columns) == 1:
            listed = _as_list(values[0])
            if listed is None or len(listed) > len(string.ascii_uppercase):
                raise self._fault(name, columns[0], values[0], "a list of options, or a text that spells one")
            return {letter: str(text) for letter, text in zip(string.ascii_uppercase, listed, strict=False)}
        lettered = zip(string.ascii_uppercase, values, strict=False)
        return {letter: str(text) for letter, text in lettered if text not in ABSENT}

    def _fault(self, name: str, column: str, value: Any, kind: str) -> UserError:
        return UserError(
            f"{self._where(name)}: column '{column}' holds {value!r:.60} and must hold {kind}; fix the row"
        )

    def _where(self, name: str) -> str:
        return f"benchmark {self.benchmark.name}: {self.path}: sample '{name}'"


def _check_columns(benchmark: Benchmark, path: Path, present: Sequence[str]) -> None:
    columns = benchmark.columns
    names = (columns.question, columns.image, *columns.marked_images.values(), columns.answers, columns.id)
    for name in (*names, columns.context, *columns.options, *columns.keep, *benchmark.only):
        if name is not None and name not in present and name.split(".")[0] not in present:
            raise UserError(f"benchmark {benchmark.name}: {path} has no column '{name}'{suggest(name, present)}")


def _places(rows: datasets.Dataset, benchmark: Benchmark) -> list[tuple[int, int | None]]:
    """(row, None) for each row that `only` lets through; (row, part) for each question of a row whose question column
    holds a list."""
    numbers: Sequence[int] = range(len(rows))
    if benchmark.only:
        asked = rows.select_columns(sorted({name.split(".")[0] for name in benchmark.only}))
        wanted = benchmark.only.items()
        numbers = [n for n in numbers if all(fits(value_at(asked[n], name), patterns) for name, patterns in wanted)]
    question = benchmark.columns.question
    if not isinstance(rows.features.get(question), datasets.List):
        return [(row, None) for row in numbers]
    questions = rows.select_columns(question)
    return [(row, part) for row in numbers for part in range(len(questions[row][question] or []))]


def _as_list(value: Any) -> list[Any] | None:
    """A list, or what a text spells that is one; None for anything else."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, list) else None


def _fits_json(value: Any) -> bool:
    try:
        to_line({"value": value})
    except (TypeError, ValueError):
        return False
    return True
