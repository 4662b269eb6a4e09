"""A benchmark's samples, read from a local parquet or JSON file. Nothing here ever calls the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pyarrow
from PIL import Image

from proxyv.data.images import BadImageError, image_size, locate_image, open_image
from proxyv.errors import UserError, reading, suggest
from proxyv.evaluation.benchmarks import Benchmark
from proxyv.files import parse_json, to_line

Value = TypeVar("Value")


@dataclass(frozen=True)
class BenchmarkSample:
    """One question. `kept` holds the row's `columns.keep`, ready for JSON."""

    index: int
    id: str
    question: str
    references: list[str]
    kept: dict[str, Any]


class BenchmarkSamples:
    """The samples of a benchmark in file order; an image is opened when it is used.

    Raises UserError where the file or a column is missing, and for the first sample that cannot be asked or scored,
    naming benchmark, path and remedy.
    """

    def __init__(self, benchmark: Benchmark, data_root: str | Path):
        self.benchmark = benchmark
        self.path = Path(data_root) / benchmark.data
        rows = _read(benchmark, self.path)
        _check_columns(benchmark, self.path, rows.column_names)
        self._images = rows.select_columns(benchmark.columns.image)
        self._texts = rows.remove_columns(benchmark.columns.image)
        self._places = _places(rows, benchmark.columns.question)
        if not self._places:
            raise UserError(f"benchmark {benchmark.name}: {self.path}: no samples; the data file is empty")
        self._check_samples()

    def _check_samples(self) -> None:
        """Raise UserError for the first sample that cannot be asked or scored, before any model is loaded."""
        missing = _empty(self._images.data.column(self.benchmark.columns.image))
        for index in range(len(self)):
            sample = self[index]
            if missing[self._places[index][0]]:
                raise UserError(
                    f"{self._where(sample.id)}: no image in column '{self.benchmark.columns.image}'; "
                    "leave the row out, or put its image there"
                )
            for metric in self.benchmark.used_metrics:
                if problem := metric.problem(sample.kept):
                    raise UserError(f"{self._where(sample.id)}: {problem}; fix the row")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> BenchmarkSample:
        """Sample `index`. Raises UserError where it has no question, no answer to compare with, or no texts there."""
        row_number, part = self._places[index]
        columns, row = self.benchmark.columns, self._texts[row_number]
        name = str(row_number if columns.id is None else row[columns.id])
        name = name if part is None else f"{name}-{part}"
        question = row[columns.question] if part is None else row[columns.question][part]
        if not isinstance(question, str):
            raise self._fault(name, columns.question, question, "a text")
        references = _as_list(row[columns.answers])
        if not all(isinstance(one, (str, int, float)) for one in references):
            raise self._fault(name, columns.answers, references, "a text, a number or a list of them")
        if not references and any(m.uses_references for m in self.benchmark.used_metrics):
            raise UserError(f"{self._where(name)}: no answer in column '{columns.answers}'; use a scored split")
        kept = {column: row[column] for column in columns.keep}
        for column, value in kept.items():
            if not _fits_json(value):
                raise self._fault(name, column, value, "what JSON can hold")
        return BenchmarkSample(index, name, question, [str(one) for one in references], kept)

    def image(self, index: int) -> Image.Image:
        """The image of sample `index` in RGB. Raises UserError for a missing or unreadable one."""
        return self._use_image(index, open_image)

    def image_size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels of that image, from its header alone. Raises UserError as `image` does."""
        return self._use_image(index, image_size)

    def _use_image(self, index: int, use: Callable[[Path | bytes], Value]) -> Value:
        row_number, _ = self._places[index]
        value = self._images[row_number][self.benchmark.columns.image]
        try:
            return use(_image_source(value, self.path.parent, self.benchmark.allow_outside))
        except BadImageError as error:
            raise UserError(f"{self._where(self[index].id)}: {error}; replace it, or fix its path") from error

    def _fault(self, name: str, column: str, value: Any, kind: str) -> UserError:
        return UserError(
            f"{self._where(name)}: column '{column}' holds {value!r:.60} and must hold {kind}; fix the row"
        )

    def _where(self, name: str) -> str:
        return f"benchmark {self.benchmark.name}: {self.path}: sample '{name}'"


def _read(benchmark: Benchmark, path: Path) -> datasets.Dataset:
    if not path.is_file():
        raise UserError(
            f"benchmark {benchmark.name}: {path} does not exist; "
            "make or download the data, or give its folder with --data_root"
        )
    if path.suffix not in (".parquet", ".json", ".jsonl"):
        raise UserError(f"benchmark {benchmark.name}: {path}: use a .parquet, .json or .jsonl file")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with reading(f"benchmark {benchmark.name}: {path}", "make it again"):
            # Not through Arrow's JSON reader: a few thousand brackets in each other end the process.
            parquet = path.suffix == ".parquet"
            rows = datasets.Dataset.from_parquet(str(path)) if parquet else datasets.Dataset.from_list(_records(path))
    finally:
        if bars:
            datasets.enable_progress_bars()
    image = benchmark.columns.image
    if isinstance(rows.features.get(image), datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    return rows


def _records(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON list, or of JSON lines. Raises ValueError for anything else."""
    text = path.read_bytes()
    rows = (
        [parse_json(line) for line in text.splitlines() if line.strip()] if _is_lines(path, text) else parse_json(text)
    )
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it must hold a list of rows, each a mapping of columns")
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _is_lines(path: Path, text: bytes) -> bool:
    """Whether a file holds JSON lines, which some call .json."""
    return path.suffix == ".jsonl" or text.lstrip()[:1] == b"{"


def _check_columns(benchmark: Benchmark, path: Path, present: Sequence[str]) -> None:
    columns = benchmark.columns
    for name in (columns.question, columns.image, columns.answers, columns.id, *columns.keep):
        if name is not None and name not in present:
            raise UserError(f"benchmark {benchmark.name}: {path} has no column '{name}'{suggest(name, present)}")


def _places(rows: datasets.Dataset, question: str) -> list[tuple[int, int | None]]:
    """(row, None) for each row; (row, part) for each question of a row whose question column holds a list."""
    if not isinstance(rows.features[question], datasets.List):
        return [(row, None) for row in range(len(rows))]
    questions = rows.select_columns(question)
    return [(row, part) for row in range(len(rows)) for part in range(len(questions[row][question] or []))]


def _empty(images: pyarrow.ChunkedArray) -> list[bool]:
    """Which rows have no image: null, or a mapping of nulls."""
    if pyarrow.types.is_struct(images.type):
        parts = [child.is_null() for child in images.combine_chunks().flatten()]
        rows = zip(*(part.to_pylist() for part in parts), strict=True)
        return [all(row) for row in rows]
    empty: list[bool] = images.is_null().to_pylist()
    return empty


def _as_list(value: Any) -> list[Any]:
    """A column that holds one value or a list of them, as a list without nulls."""
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def _fits_json(value: Any) -> bool:
    try:
        to_line({"value": value})
    except (TypeError, ValueError):
        return False
    return True


def _image_source(value: Any, folder: Path, allow_outside: bool) -> Path | bytes:
    """Bytes, or a path below `folder`, from a column that holds either, or Hugging Face's mapping of the two.

    Raises BadImageError for anything else, and for a path that leads out of the folder unless `allow_outside`.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return locate_image(folder, value, allow_outside)
    found = "the column is empty" if value is None else f"the column holds a {type(value).__name__}"
    raise BadImageError(f"image cannot be read ({found})")
