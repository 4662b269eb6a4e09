"""A benchmark's samples, read from a local parquet or JSON file. Nothing here ever calls the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from proxyv.data.images import BadImageError, locate_image, open_image
from proxyv.errors import UserError, suggest
from proxyv.evaluation.benchmarks import Benchmark


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

    Raises UserError where the file or a column is missing, naming benchmark, path and remedy.
    """

    def __init__(self, benchmark: Benchmark, data_root: str | Path):
        self.benchmark = benchmark
        self.path = Path(data_root) / benchmark.data
        rows = _read(benchmark, self.path)
        _check_columns(benchmark, self.path, rows.column_names)
        self._images = rows.select_columns(benchmark.columns.image)
        self._texts = rows.remove_columns(benchmark.columns.image)
        self._places = _places(rows, benchmark.columns.question)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> BenchmarkSample:
        """Sample `index`. Raises UserError where it has no answer to compare with."""
        row_number, part = self._places[index]
        columns, row = self.benchmark.columns, self._texts[row_number]
        question = row[columns.question]
        name = str(row_number if columns.id is None else row[columns.id])
        sample = BenchmarkSample(
            index=index,
            id=name if part is None else f"{name}-{part}",
            question=str(question if part is None else question[part]),
            references=_as_texts(row[columns.answers]),
            kept={column: row[column] for column in columns.keep},
        )
        if not sample.references and any(m.uses_references for m in self.benchmark.used_metrics):
            raise UserError(f"{self._where(sample.id)}: no answer in column '{columns.answers}'; use a scored split")
        return sample

    def image(self, index: int) -> Image.Image:
        """The image of sample `index` in RGB. Raises UserError for a missing or unreadable one."""
        row_number, _ = self._places[index]
        value = self._images[row_number][self.benchmark.columns.image]
        try:
            return open_image(_image_source(value, self.path.parent, self.benchmark.allow_outside))
        except BadImageError as error:
            raise UserError(f"{self._where(self[index].id)}: {error}; replace it, or fix its path") from error

    def _where(self, name: str) -> str:
        return f"benchmark {self.benchmark.name}: {self.path}: sample '{name}'"


def _read(benchmark: Benchmark, path: Path) -> datasets.Dataset:
    if not path.is_file():
        raise UserError(
            f"benchmark {benchmark.name}: {path} does not exist; "
            "make or download the data, or give its folder with --data_root"
        )
    readers = {".parquet": datasets.Dataset.from_parquet, ".json": datasets.Dataset.from_json}
    reader = readers.get({".jsonl": ".json"}.get(path.suffix, path.suffix))
    if reader is None:
        raise UserError(f"benchmark {benchmark.name}: {path}: use a .parquet, .json or .jsonl file")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows = reader(str(path))
    except Exception as error:  # pyarrow and datasets raise many kinds
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"benchmark {benchmark.name}: {path} cannot be read ({reason}); make it again") from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    image = benchmark.columns.image
    if isinstance(rows.features.get(image), datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    return rows


def _check_columns(benchmark: Benchmark, path: Path, present: Sequence[str]) -> None:
    columns = benchmark.columns
    for name in (columns.question, columns.image, columns.answers, columns.id, *columns.keep):
        if name is not None and name not in present:
            raise UserError(f"benchmark {benchmark.name}: {path} has no column '{name}'{suggest(name, present)}")


def _places(rows: datasets.Dataset, question: str) -> list[tuple[int, int | None]]:
    """(row, None) for each row; (row, part) for each question of a row whose question column holds a list."""
    if isinstance(rows.features[question], datasets.Value):
        return [(row, None) for row in range(len(rows))]
    questions = rows.select_columns(question)
    return [(row, part) for row in range(len(rows)) for part in range(len(questions[row][question] or []))]


def _as_texts(value: Any) -> list[str]:
    """A column that holds one text, a number or a list of them, as a list of texts."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [str(value)]
    return [str(one) for one in value if one is not None]


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
