"""The record of what was fetched: `<data root>/fetched/<source>.json`, beside the data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

from proxyv.files import read_json, write_json
from proxyv.results.check import checked
from proxyv.sources.source import Source

_AT_ONCE = 2**22  # bytes


class FetchedFile(TypedDict):
    """One file as it was when it had arrived."""

    size: int  # bytes
    sha256: str


class Fetched(TypedDict):
    """What `proxyv data fetch` got."""

    source: str
    hub: str
    commit: str  # of the repository
    created: str  # UTC, ISO 8601
    complete: bool  # false: some files are still to come
    files: dict[str, FetchedFile]  # by path in the source's folder
    unpacked: list[str]  # archives


def record_file(source: Source, data_root: str | Path) -> Path:
    """Where a source's record lies."""
    return Path(data_root) / "fetched" / f"{source.name}.json"


def read_fetched(source: Source, data_root: str | Path) -> Fetched | None:
    """A source's record; None where nothing of it was fetched. Raises UserError for a damaged one."""
    file = record_file(source, data_root)
    if not file.is_file():
        return None
    return checked(read_json(file), Fetched, file, [*Fetched.__annotations__, "files.*.size", "files.*.sha256"])


def write_fetched(source: Source, data_root: str | Path, fetched: Fetched) -> None:
    """Write a source's record, whole or not at all."""
    write_json(record_file(source, data_root), fetched)


def sha256(file: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
