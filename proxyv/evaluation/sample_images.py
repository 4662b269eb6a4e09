"""The images of a benchmark's rows: in a column (one or a list of them), in the columns that a text names by marks, or
in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.compute
from PIL import Image

from proxyv.data.images import BadImageError, image_size, locate_image, open_image
from proxyv.errors import UserError, suggest
from proxyv.evaluation.benchmarks import Benchmark
from proxyv.evaluation.tables import read_table


class SampleImages:
    """Which images go with a row; they are opened when they are used.

    folder: that image paths are relative to.

    Raises UserError where the files of images apart are missing or lack a column.
    """

    def __init__(self, benchmark: Benchmark, rows: datasets.Dataset, folder: Path, data_root: str | Path):
        columns = benchmark.columns
        self._marked = columns.marked_images
        self._folder, self._allow_outside = folder, benchmark.allow_outside
        self._row_of: dict[Any, int] | None = None  # of images apart, by id
        if benchmark.images is None:
            self._columns = list(self._marked.values()) or [str(columns.image)]
            self._rows = rows.select_columns(self._columns)
        else:
            self._ids = list(rows[columns.image])
            self._columns = [benchmark.images.image]
            place, where = Path(data_root) / benchmark.images.data, f"benchmark {benchmark.name}"
            apart = read_table(place, where)
            for name in (benchmark.images.id, benchmark.images.image):
                if name not in apart.column_names:
                    raise UserError(f"{where}: {place} has no column '{name}'{suggest(name, apart.column_names)}")
            self._row_of = {name: row for row, name in enumerate(apart[benchmark.images.id])}
            self._rows, self._folder = apart.select_columns(self._columns), place.parent
        self._numbers = {name: _numbers(self._rows.data.column(name)) for name in self._columns}

    def count(self, row: int, text: str) -> int:
        """How many images go with a row. Raises BadImageError where there are none, or one that it names is missing."""
        place = self._place(row)
        used = self._used(text)
        for column in used:
            if not self._numbers[column][place]:
                raise BadImageError(f"no image in column '{column}'")
        if not used:
            raise BadImageError(f"no image: the text has none of the marks {', '.join(self._marked)}")
        return sum(self._numbers[column][place] for column in used)

    def open(self, row: int, text: str) -> list[Image.Image]:
        """The images of a row in RGB. Raises BadImageError for a missing or unreadable one."""
        return [open_image(source) for source in self._sources(row, text)]

    def sizes(self, row: int, text: str) -> list[tuple[int, int]]:
        """Their (width, height) in pixels, from their headers alone. Raises BadImageError as `open` does."""
        return [image_size(source) for source in self._sources(row, text)]

    def _sources(self, row: int, text: str) -> list[Path | bytes]:
        values = self._rows[self._place(row)]
        found = [values[column] for column in self._used(text)]
        images = [image for value in found for image in (value if isinstance(value, list) else [value])]
        return [_image_source(image, self._folder, self._allow_outside) for image in images]

    def _used(self, text: str) -> list[str]:
        """The columns whose images go with a text."""
        return [column for mark, column in self._marked.items() if mark in text] if self._marked else self._columns

    def _place(self, row: int) -> int:
        """Where in the table of images a row's are."""
        if self._row_of is None:
            return row
        if self._ids[row] not in self._row_of:
            raise BadImageError(f"there is no image '{self._ids[row]}'")
        return self._row_of[self._ids[row]]


def _numbers(images: pyarrow.ChunkedArray) -> list[int]:
    """How many images each row has: none where the column holds null, an empty list, or a mapping of nulls."""
    if pyarrow.types.is_list(images.type) or pyarrow.types.is_large_list(images.type):
        lengths: list[int] = pyarrow.compute.list_value_length(images).fill_null(0).to_pylist()
        return lengths
    if pyarrow.types.is_struct(images.type):
        parts = [child.is_valid() for child in images.combine_chunks().flatten()]
        return [int(any(row)) for row in zip(*(part.to_pylist() for part in parts), strict=True)]
    return [int(present) for present in images.is_valid().to_pylist()]


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
