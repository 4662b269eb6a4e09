"""A benchmark's data files, one or many, as one table. Nothing here ever calls the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import datasets

from proxyv.errors import UserError, reading
from proxyv.files import parse_json
from proxyv.pages.benchmark_files import no_progress_bars

ENDINGS = (".parquet", ".json", ".jsonl")
_SHARD = re.compile(r"^(.*)-\d+-of-(\d+)")


def read_table(place: Path, where: str) -> datasets.Dataset:
    """The rows of a file, of a folder's files, or of those that a pattern fits, in the order of their names.

    Images stay encoded. Raises UserError, which `where` begins, for files that are missing (shards of a set too),
    unlike each other, or damaged.
    """
    with no_progress_bars(), reading(f"{where}: {place}", "get it again"):
        files = _data_files(place, where)
        if files[0].suffix == ".parquet":
            rows = datasets.Dataset.from_parquet([str(file) for file in files])
        else:  # not through Arrow's JSON reader: a few thousand brackets in each other end the process
            rows = datasets.Dataset.from_list(_with_all_columns([row for file in files for row in _records(file)]))
        rows = _encoded(rows)
    return rows


def _encoded(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with images that are not decoded."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            rows = rows.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return rows


def _data_files(place: Path, where: str) -> list[Path]:
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = [file for file in place.iterdir() if file.suffix in ENDINGS]
    else:
        files = [Path(file) for file in glob.glob(str(place), recursive=True)]
    if not files:
        what = "holds no .parquet, .json or .jsonl file" if place.is_dir() else "does not exist"
        raise UserError(f"{where}: {place} {what}; make or download the data, or give its folder with --data_root")
    endings = sorted({file.suffix for file in files})
    if len(endings) > 1 or endings[0] not in ENDINGS:
        raise UserError(
            f"{where}: {place}: use .parquet, .json or .jsonl files of one kind, found {', '.join(endings)}"
        )
    _check_shards(files, place, where)
    return sorted(files)


def _check_shards(files: Sequence[Path], place: Path, where: str) -> None:
    """Raise UserError where files are named as shards of a set of which others are missing."""
    sets: dict[tuple[str, int], int] = {}
    for file in files:
        if shard := _SHARD.match(file.name):
            key = (shard[1], int(shard[2]))
            sets[key] = sets.get(key, 0) + 1
    for (name, planned), found in sets.items():
        if found != planned:
            raise UserError(f"{where}: {place}: {found} of {planned} files '{name}-…' are there; get the others")


def _records(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON list, or of JSON lines. Raises ValueError for anything else."""
    text = path.read_bytes()
    is_lines = path.suffix == ".jsonl" or text.lstrip()[:1] == b"{"  # some call them .json
    rows = [parse_json(line) for line in text.splitlines() if line.strip()] if is_lines else parse_json(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it must hold a list of rows, each a mapping of columns")
    return rows


def _with_all_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or within it: `messages.0.content`. None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def fits(value: Any, patterns: Sequence[str]) -> bool:
    """Whether a value, or one of a list, fits a pattern (where there are any), and none fits one behind a "!"."""
    texts = [str(one) for one in (value if isinstance(value, list) else [value])]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    refused = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return (not wanted or _any_fits(texts, wanted)) and not _any_fits(texts, refused)


def _any_fits(texts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)
