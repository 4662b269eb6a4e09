"""Readers: one class a file format. Each gives `Sample`s by index and keeps its records in an Arrow table.

Add a format: a subclass of `Reader` here, with its `format`, `read`, `sample` and `lengths`; and a YAML under
configs/data whose data sets say `reader: <format>`. What a record must hold is in records.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets

from proxyv.config import DataSpec, Recipe
from proxyv.data.images import BadImageError, locate_image
from proxyv.data.records import BadRecordError, Sample, check_text, read_json_records, to_messages
from proxyv.errors import UserError, one_line, reading, suggest

# What a reader's samples hold, of `Sample`'s fields.
CONVERSATIONS, GRIDS = "conversations", "grids"
FAULT = "fault"  # the column that says why a record is bad, null for a good one

READERS: dict[str, type[Reader]] = {}  # every subclass of Reader, by its format

_TEXT = datasets.Value("string")
_TURNS = [{"from": _TEXT, "value": _TEXT}]


class Reader:
    """Samples of one data set of a recipe.

    A bad record keeps its place, so that the order of samples does not depend on which are bad.

    Raises UserError, when made, for a missing or malformed file; by index, BadRecordError for a malformed record.
    """

    format: ClassVar[str] = ""  # what a data set says as its `reader`
    gives: ClassVar[str] = CONVERSATIONS

    def __init_subclass__(cls) -> None:
        if "format" in vars(cls):
            READERS[cls.format] = cls

    def __init__(self, name: str, spec: DataSpec, data_root: str | Path):
        self.name, self.spec = name, spec
        self.file = source_file(name, spec, data_root)
        self.images = Path(data_root) / (spec.images or "")
        self.table = self.read()
        if not len(self.table):
            raise UserError(f"data.{name}.path: {self.file} holds no record; give a file with some")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        try:
            return replace(self._checked(self._row_of(index)), number=index)
        except BadRecordError as error:
            raise BadRecordError(f"{self.where_is(index)} {error}") from error

    def read(self) -> datasets.Dataset:
        """The file as a table, cut to `limit`. Raises UserError for a file of another format."""
        raise NotImplementedError

    def row(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record of a JSON file as a row of the table, for `read_json`. Raises BadRecordError for a malformed one."""
        raise NotImplementedError

    def sample(self, row: dict[str, Any]) -> Sample:
        """One row of the table as a sample. Raises BadRecordError for a malformed one."""
        raise NotImplementedError

    def lengths(self) -> list[int]:
        """Words of each sample's turns, negative for samples without image (for `group_by_length`)."""
        raise NotImplementedError

    def faults(self) -> dict[int, str]:
        """Why records are bad, by their numbers: all that can be told without opening images."""
        if FAULT not in self.table.column_names:
            return dict(self._find_faults())
        reasons = enumerate(self.table.data.column(FAULT).to_pylist())
        return {number: reason for number, reason in reasons if reason is not None}

    def where(self, identity: str, number: int | None = None) -> str:
        """The beginning of a message about one record: its file, its id and its place there, from 0."""
        place = "" if number is None else f" (number {number})"
        return f"{self.file}: record '{one_line(identity, 60)}'{place}"

    def where_is(self, number: int) -> str:
        """As `where`, of the record with this number."""
        return self.where(str(self._row_of(number).get("id", number)), number)

    def read_json(self, columns: Mapping[str, Any]) -> datasets.Dataset:
        """The records of a JSON file, as `row` gives them, in a table with these columns, `id` and `FAULT`.

        columns: Arrow features by name. Raises UserError where the file is no list of records.
        """
        records = read_json_records(self.file, f"data.{self.name}.path")[: self.spec.limit]
        rows = [self._row(record, number) for number, record in enumerate(records)]
        features = {**columns, "id": _TEXT, FAULT: _TEXT}
        table = {name: [row.get(name) for row in rows] for name in features}
        return datasets.Dataset.from_dict(table, features=datasets.Features(features))

    def image_path(self, path: Any) -> Path:
        """An image file in the data set's folder. Raises BadRecordError for a path that leads out of it, or is none."""
        try:
            return locate_image(self.images, path, self.spec.allow_outside)
        except BadImageError as error:
            raise BadRecordError(f"has a wrong path: {error}") from error

    def _row(self, record: dict[str, Any] | BadRecordError, number: int) -> dict[str, Any]:
        """A record of a JSON file as a row with `id` and `FAULT`."""
        if isinstance(record, BadRecordError):
            return {"id": str(number), FAULT: _storable(record)}
        identity = record.get("id")
        row = {"id": _storable(number if identity is None else identity)}
        try:
            return {**self.row(record), **row}
        except BadRecordError as error:
            return {**row, FAULT: _storable(error)}

    def _row_of(self, number: int) -> dict[str, Any]:
        """A row of the table; one without id has its number instead."""
        row: dict[str, Any] = self.table[number]
        return {**row, "id": str(number)} if "id" in row and row["id"] is None else row

    def _checked(self, row: dict[str, Any]) -> Sample:
        """One row of the table as a sample. Raises BadRecordError for a malformed one."""
        if row.get(FAULT) is not None:
            raise BadRecordError(row[FAULT])
        return self.sample(row)

    def _find_faults(self) -> Iterator[tuple[int, str]]:
        """As `faults`, for a table without `FAULT`."""
        for number in range(len(self)):
            try:
                self._checked(self._row_of(number))
            except BadRecordError as error:
                yield number, str(error)


class LlavaReader(Reader):
    """LLaVA records: `{"id", "image": path or list (optional), "conversations": [{"from", "value"}, …]}`.

    From one JSON list (or `.jsonl` lines) with an image folder, as of ShareGPT4V, or from parquet files with the images
    inside, as of LLaVA-NeXT-Data; `path` may then hold `*`. The format: github.com/haotian-liu/LLaVA,
    docs/Finetune_Custom_Data.md. A JSON file is parsed once as a whole; then only its Arrow table stays in memory.
    """

    format = "llava"

    def read(self) -> datasets.Dataset:
        if self.file.suffix == ".parquet":
            return self._read_parquet()
        return self.read_json({"image": [_TEXT], "conversations": _TURNS})

    def row(self, record: dict[str, Any]) -> dict[str, Any]:
        image = record.get("image")
        paths = image if isinstance(image, list) else [image] if image not in (None, "") else []
        for path in paths:
            self.image_path(check_text(path, "image"))
        turns = record.get("conversations")
        to_messages(turns, len(paths))
        return {
            "image": paths or None,
            "conversations": [{"from": turn["from"], "value": turn["value"]} for turn in cast("list[Any]", turns)],
        }

    def sample(self, row: dict[str, Any]) -> Sample:
        image = row.get("image")
        images: list[Path | bytes]
        if isinstance(image, Mapping):  # parquet: the encoded image itself
            images = [image["bytes"] if image.get("bytes") else self.image_path(image.get("path"))]
        else:
            images = [self.image_path(path) for path in image or []]
        messages = to_messages(row["conversations"], len(images))
        return Sample(str(row["id"]), self.name, tuple(images), messages)

    def lengths(self) -> list[int]:
        words = (_words(turns) for turns in self.table["conversations"])
        # At least 1, so that the sign is never lost.
        return [
            max(1, count) if image else -max(1, count) for count, image in zip(words, self._has_image(), strict=True)
        ]

    def _read_parquet(self) -> datasets.Dataset:
        """Parquet shards through the Hugging Face cache, which maps them into memory.

        Raises UserError for files that are damaged or unlike one another, and for a missing or wrong column.
        """
        field = f"data.{self.name}.path: {self.file}"
        files = sorted(str(path) for path in self.file.parent.glob(self.file.name))
        with reading(field, "get it again"):
            table = datasets.Dataset.from_parquet(files)
            if "image" in table.column_names:
                table = table.cast_column("image", datasets.Image(decode=False))
        if missing := {"id", "conversations"} - set(table.column_names):
            raise UserError(f"{field} has no column {', '.join(sorted(missing))}")
        return table if self.spec.limit is None else table.select(range(min(self.spec.limit, len(table))))

    def _has_image(self) -> list[bool]:
        """Whether each record has an image; none is read."""
        if "image" not in self.table.column_names:
            return [False] * len(self)
        present: list[bool] = self.table.data.column("image").is_valid().to_pylist()
        return present

    def _find_faults(self) -> Iterator[tuple[int, str]]:
        """Of parquet, without reading the images."""
        for number, (turns, image) in enumerate(zip(self.table["conversations"], self._has_image(), strict=True)):
            try:
                to_messages(turns, int(image))
            except BadRecordError as error:
                yield number, str(error)


class GlyphReader(Reader):
    """`glyphs.json` of the synthetic pages: `{"id", "image", "grid": [row, …]}`, one character a cell."""

    format = "glyphs"
    gives = GRIDS

    def read(self) -> datasets.Dataset:
        return self.read_json({"image": _TEXT, "grid": [_TEXT]})

    def row(self, record: dict[str, Any]) -> dict[str, Any]:
        if missing := {"id", "image", "grid"} - set(record):
            raise BadRecordError(f"has no {', '.join(sorted(missing))}; give all three")
        grid = record["grid"]
        if not isinstance(grid, list) or not grid:
            raise BadRecordError("has no rows in 'grid'; give a list of texts")
        self.image_path(check_text(record["image"], "image"))
        return {"image": record["image"], "grid": [check_text(row, "grid") for row in grid]}

    def sample(self, row: dict[str, Any]) -> Sample:
        return Sample(row["id"], self.name, (self.image_path(row["image"]),), grid=tuple(row["grid"]))

    def lengths(self) -> list[int]:
        return [1] * len(self)


def open_reader(recipe: Recipe, name: str) -> Reader:
    """The reader of one of the recipe's data sets. Raises UserError for an unknown name, reader or file."""
    check_source(recipe, name)
    return READERS[recipe.data[name].reader](name, recipe.data[name], recipe.data_root)


def check_source(recipe: Recipe, name: str) -> None:
    """Raise UserError where a data set cannot be opened, without reading it."""
    if name not in recipe.data:
        known = suggest(name, recipe.data) if recipe.data else "; the recipe has no data"
        raise UserError(f"data: there is no data set '{name}'{known}")
    spec = recipe.data[name]
    if spec.reader not in READERS:
        raise UserError(f"data.{name}.reader: '{spec.reader}' is unknown{suggest(spec.reader, READERS)}")
    source_file(name, spec, recipe.data_root)


def source_file(name: str, spec: DataSpec, data_root: str | Path) -> Path:
    """A data set's file, or pattern of files. Raises UserError where there is none."""
    if not spec.path:
        raise UserError(f"data.{name}.path: names no file; give one, relative to data_root")
    file = Path(data_root) / spec.path
    if not any(path.is_file() for path in file.parent.glob(file.name)):
        raise UserError(f"data.{name}.path: {file} does not exist; fix it or data_root")
    return file


def _storable(value: Any) -> str:
    """The value as a text that Arrow takes."""
    return str(value).encode("utf-8", "replace").decode()


def _words(turns: Any) -> int:
    """Words of a conversation, also of one that is malformed."""
    values = (turn.get("value") for turn in turns or () if isinstance(turn, Mapping))
    return sum(len(value.split()) for value in values if isinstance(value, str))
