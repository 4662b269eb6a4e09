"""Sources of data: what their YAML files hold, and how they are found and read.

A source is `configs/sources/<name>.yaml`: one benchmark's data, or one training set, in a repository of the hub. What
nobody has looked up is null. What was looked up says where, in `read_in`; a fact without that is unverified.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from proxyv.domains import CheckedBy, Count, Declared, Name, Place, Positive, Text
from proxyv.errors import UserError, suggest
from proxyv.files import CHECKOUT
from proxyv.schema import load_dataclass

FOLDER = CHECKOUT / "configs" / "sources"
Fact = Literal["hub", "revision", "licence", "rows", "gigabytes", "columns"]
Inside = Annotated[Place, CheckedBy("sources/source.py")]  # below a folder, never out of it


@dataclass
class SourceFiles(Declared):
    """Files of a repository that are fetched."""

    pattern: Inside  # a path in the repository; * stands for anything
    rows: Count | None = None  # in all files of the pattern together; null: unknown, or these have none
    gigabytes: Positive | None = None  # 10⁹ bytes, to download; null: unknown


@dataclass
class ByHand(Declared):
    """What cannot be fetched: to be put there by the user."""

    what: Text
    origin: Text  # where it is offered
    folder: Inside  # in the source's folder


@dataclass
class Source(Declared):
    """Data of one repository of the hub, and where it lies below the data root."""

    name: Name  # equal to the file's name
    title: Text
    hub: Place  # owner/name of the data set
    folder: Inside  # below the data root: the repository's files lie in it as they do in the repository
    files: Annotated[list[SourceFiles], Field(min_length=1)]
    revision: Text | None = None  # a commit; null: unpinned, the newest is taken and its commit recorded
    checksums: dict[Text, Text] | None = None  # path → SHA-256; null: unpinned, what the hub says is recorded
    licence: Text | None = None  # as the repository states it; null: it states none, or unknown
    columns: dict[Text, Text] = field(default_factory=dict)  # name → kind, as published; none: unknown
    unpack: dict[Inside, Inside] = field(default_factory=dict)  # archive → folder, both in the source's folder
    by_hand: list[ByHand] = field(default_factory=list)
    read_in: dict[Fact, Text] = field(default_factory=dict)  # fact → the document that states it

    @property
    def patterns(self) -> list[str]:
        """The patterns of its files, in the repository."""
        return [files.pattern for files in self.files]

    @property
    def gigabytes(self) -> float | None:
        """To download, in 10⁹ bytes; None where a part is unknown."""
        sizes = [files.gigabytes for files in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def rows(self) -> int | None:
        """Rows of all files; None where no part states any."""
        counts = [files.rows for files in self.files if files.rows is not None]
        return sum(counts) if counts else None

    @property
    def unverified(self) -> list[Fact]:
        """The facts that are stated without a document that says so."""
        stated: dict[Fact, object] = {
            "hub": self.hub,
            "revision": self.revision,
            "licence": self.licence,
            "rows": self.rows,
            "gigabytes": next((one.gigabytes for one in self.files if one.gigabytes), None),
            "columns": self.columns,
        }
        return [fact for fact, value in stated.items() if value and fact not in self.read_in]

    def document(self, fact: str) -> str | None:
        """The document that states a fact; None where none does."""
        return next((document for name, document in self.read_in.items() if name == fact), None)

    def holds(self, data: str) -> bool:
        """Whether a path below the data root, as a benchmark or data set names it, is of this source: a file, a
        pattern or a folder."""
        return bool(self.files_of(data))

    def files_of(self, data: str) -> list[SourceFiles]:
        """Those of the source's files that a path below the data root names; see `holds`."""
        inside = f"{data.rstrip('/')}/"
        places = ((files, f"{self.folder}/{files.pattern}") for files in self.files)
        return [
            files
            for files, place in places
            if fnmatch.fnmatch(place, data) or fnmatch.fnmatch(data, place) or place.startswith(inside)
        ]


def load_source(name: str, folder: Path = FOLDER) -> Source:
    """A source by name. Raises UserError for an unknown name or a faulty file."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown source '{name}'{suggest(name, source_names(folder))}")
    source = load_dataclass(Source, path)
    if source.name != path.stem:
        raise UserError(f"{path}: field 'name' is '{source.name}'; it must equal the file's name")
    inside = [source.folder, *source.patterns, *(place for pair in source.unpack.items() for place in pair)]
    for place in [*inside, *(one.folder for one in source.by_hand)]:
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise UserError(f"{path}: '{place}' leads out of the data root; give a path below it")
    return source


def source_names(folder: Path = FOLDER) -> list[str]:
    """The names of all sources. Raises UserError where there are none: an installed package has no configs/."""
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if not names:
        raise UserError(f"{folder}: no sources found here; run proxyv from a checkout of its repository")
    return names


def all_sources(folder: Path = FOLDER) -> list[Source]:
    """All sources by name. Raises UserError as `load_source` does."""
    return [load_source(name, folder) for name in source_names(folder)]
