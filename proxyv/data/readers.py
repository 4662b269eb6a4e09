"""Readers: one class a file format. Each gives `Sample`s by index and keeps its records in an Arrow table.

Add a format: a subclass of `Reader` here, with its `format`, `read`, `sample` and `lengths`; and a YAML under
configs/data whose data sets say `reader: <format>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets

from proxyv.config import DataSpec, Recipe
from proxyv.constants import IMAGE_TOKEN
from proxyv.errors import UserError, suggest

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_TURNS = [{"from": datasets.Value("string"), "value": datasets.Value("string")}]


# What a reader's samples hold, of `Sample`'s fields.
CONVERSATIONS, GRIDS = "conversations", "grids"

READERS: dict[str, type[Reader]] = {}  # every subclass of Reader, by its format


@dataclass(frozen=True)
class Sample:
    """One record: a conversation with images, or an image with the characters that stand on it.

    images: files, or the bytes of encoded images, in the order of the `<image>` marks.
    messages: `{"role", "content"}`, roles "system", "user", "assistant".
    grid: one string a row of characters; only from `GlyphReader`.
    """

    id: str
    source: str
    images: tuple[Path | bytes, ...] = ()
    messages: tuple[dict[str, str], ...] = ()
    grid: tuple[str, ...] = field(default=())


class Reader:
    """Samples of one data set of a recipe.

    Raises UserError, when made, for a missing or malformed file; by index, for a malformed record.
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
        return self.sample(self.table[index])

    def read(self) -> datasets.Dataset:
        """The file as a table, cut to `limit`. Raises UserError for a file of another format."""
        raise NotImplementedError

    def sample(self, row: dict[str, Any]) -> Sample:
        """One row of the table as a sample. Raises UserError for a malformed one."""
        raise NotImplementedError

    def lengths(self) -> list[int]:
        """Words of each sample's turns, negative for samples without image (for `group_by_length`)."""
        raise NotImplementedError

    def where(self, identity: str) -> str:
        """The beginning of a message about one record."""
        return f"{self.file}: record '{identity}'"

    def records(self) -> list[dict[str, Any]]:
        """The list of a JSON file, cut to `limit`. Raises UserError where the file is no list of objects."""
        try:
            loaded = json.loads(self.file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"data.{self.name}.path: {self.file} is not valid JSON ({error}); fix the file") from error
        if not isinstance(loaded, list) or not all(isinstance(record, dict) for record in loaded):
            raise UserError(f"data.{self.name}.path: {self.file} must hold a JSON list of records")
        return loaded[: self.spec.limit]


class LlavaReader(Reader):
    """LLaVA records: `{"id", "image": path or list (optional), "conversations": [{"from", "value"}, …]}`.

    From one JSON list with an image folder (as of ShareGPT4V), or from parquet files with the images inside (as of
    LLaVA-NeXT-Data; `path` may hold `*`). The format: github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.
    A JSON file is parsed once as a whole; then only its Arrow table stays in memory.
    """

    format = "llava"

    def read(self) -> datasets.Dataset:
        if self.file.suffix == ".parquet":
            return self._read_parquet()
        columns: dict[str, list[Any]] = {"id": [], "image": [], "conversations": []}
        for place, record in enumerate(self.records()):
            identity = str(record.get("id", place))
            columns["id"].append(identity)
            columns["image"].append(_image_list(record.get("image")))
            columns["conversations"].append(self._turns(record.get("conversations"), identity))
        features = {"id": datasets.Value("string"), "image": [datasets.Value("string")], "conversations": _TURNS}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    def _read_parquet(self) -> datasets.Dataset:
        """Parquet shards through the Hugging Face cache, which maps them into memory.

        Raises UserError for a missing column.
        """
        table = datasets.Dataset.from_parquet(sorted(str(path) for path in self.file.parent.glob(self.file.name)))
        if missing := {"id", "conversations"} - set(table.column_names):
            raise UserError(f"data.{self.name}.path: {self.file} has no column {', '.join(sorted(missing))}")
        if "image" in table.column_names:
            table = table.cast_column("image", datasets.Image(decode=False))
        return table if self.spec.limit is None else table.select(range(min(self.spec.limit, len(table))))

    def _turns(self, turns: Any, identity: str) -> list[dict[str, str]]:
        """The turns with nothing but "from" and "value". Raises UserError for anything else than turns."""
        if not isinstance(turns, list) or not turns:
            raise UserError(f"{self.where(identity)} has no 'conversations'; give a list of turns")
        for turn in turns:
            if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
                raise UserError(f"{self.where(identity)}: each turn needs a 'from' and a text as 'value'")
            if turn.get("from") not in ROLES:
                hint = suggest(str(turn.get("from")), ROLES)
                raise UserError(f"{self.where(identity)}: 'from' is '{turn.get('from')}'{hint}")
        return [{"from": turn["from"], "value": turn["value"]} for turn in turns]

    def sample(self, row: dict[str, Any]) -> Sample:
        turns = self._turns(row["conversations"], row["id"])
        image = row.get("image")
        images: list[Path | bytes]
        if isinstance(image, Mapping):  # parquet: the encoded image itself
            images = [image["bytes"] if image.get("bytes") else self.images / str(image.get("path"))]
        else:
            images = [self.images / path for path in image or []]
        marks = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns)
        if marks != len(images):
            raise UserError(
                f"{self.where(row['id'])} has {marks} {IMAGE_TOKEN} mark(s) but {len(images)} image(s); make them equal"
            )
        messages = [{"role": ROLES[turn["from"]], "content": mark_in_front(turn["value"])} for turn in turns]
        while messages and messages[0]["role"] == "assistant":  # an answer to nothing, as upstream drops it
            messages.pop(0)
        return Sample(row["id"], self.name, tuple(images), tuple(messages))

    def lengths(self) -> list[int]:
        if "image" in self.table.column_names:
            images = self.table.data.column("image").is_valid().to_pylist()  # without reading the images
        else:
            images = [False] * len(self)
        words = (sum(len(turn["value"].split()) for turn in turns) for turns in self.table["conversations"])
        # At least 1, so that the sign is never lost.
        return [max(1, count) if image else -max(1, count) for count, image in zip(words, images, strict=True)]


class GlyphReader(Reader):
    """`glyphs.json` of the synthetic pages: `{"id", "image", "grid": [row, …]}`, one character a cell."""

    format = "glyphs"
    gives = GRIDS

    def read(self) -> datasets.Dataset:
        records = self.records()
        for place, record in enumerate(records):
            if missing := {"id", "image", "grid"} - set(record):
                raise UserError(f"{self.file}: record {place} has no {', '.join(sorted(missing))}; give all three")
        columns = {key: [record[key] for record in records] for key in ("id", "image", "grid")}
        return datasets.Dataset.from_dict(columns)

    def sample(self, row: dict[str, Any]) -> Sample:
        return Sample(row["id"], self.name, (self.images / row["image"],), grid=tuple(row["grid"]))

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


def mark_in_front(text: str) -> str:
    """A turn's only `<image>` goes to its front and the rest is stripped, as LLaVA's preprocessing does.

    Turns without mark, with several, or with the mark in front already stay as they are, blanks included.
    """
    if text.count(IMAGE_TOKEN) != 1 or text.startswith(IMAGE_TOKEN):
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}"


def _image_list(image: Any) -> list[str] | None:
    if not image:
        return None
    return [str(path) for path in image] if isinstance(image, list) else [str(image)]
