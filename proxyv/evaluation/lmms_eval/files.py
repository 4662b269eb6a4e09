"""The local files of a task of lmms-eval: where they lie, and their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from proxyv.data.images import BadImageError, locate_image
from proxyv.errors import UserError, reading

SUFFIXES = (".parquet", ".json", ".jsonl")


def find_files(name: str, config: Mapping[str, Any], split: str, place: str | None, data_root: Path) -> list[Path]:
    """The files of a task's split, sorted.

    place: a file, a folder (all its files) or a glob, absolute or below `data_root`. None: the copy of the task's
    repository on the hub, as `<data_root>/<repository>/<configuration>/<split>-*.parquet`, with `data` for the
    configuration, or the one file `<data_root>/<repository>/*.parquet`.

    Raises UserError where there are none, or files of several kinds.
    """
    if place is not None:
        patterns = [str(data_root / place / "*") if (data_root / place).is_dir() else str(data_root / place)]
    else:
        copy = data_root / str(config.get("dataset_path", name)).rpartition("/")[2]
        folders = [one for one in (config.get("dataset_name"), "data", "default", ".") if one]
        patterns = [str(copy / folder / f"{split}-*.parquet") for folder in folders]
        if len(alone := _glob(str(copy / "*.parquet"))) == 1:
            patterns.append(str(alone[0]))
    for pattern in patterns:
        found = sorted(path for path in _glob(pattern) if path.suffix in SUFFIXES and path.is_file())
        if found and len({path.suffix == ".parquet" for path in found}) > 1:
            raise UserError(f"task {name}: {pattern}: has parquet and JSON files; name those of one kind")
        if found:
            return [path.resolve() for path in found]
    raise UserError(
        f"task {name}: no parquet or JSON file at {patterns[0]}; put the data there, or say where it is: "
        f"--tasks {name}=FILES, below --data_root"
    )


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    return (
        list(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) if path.anchor else list(Path().glob(pattern))
    )


def with_images(name: str, config: Mapping[str, Any], files: list[Path]) -> dict[str, Any]:
    """The fields of a task's configuration by which its images come from local files as lmms-eval wants them."""
    own: Callable[[Any], Any] | None = config.get("process_docs")
    if name.startswith("gqa") and not _has_column(files[0], "image"):
        return {"process_docs": None, "doc_to_visual": _GQAImages(files)}
    if name.startswith("gqa"):
        own = None  # it reads the images from the hub
    return {"process_docs": partial(_decoded, own=own, folder=files[0].parent)}


def _decoded(rows: datasets.Dataset, own: Callable[[Any], Any] | None, folder: Path) -> datasets.Dataset:
    """Rows whose images are decoded, whatever the file says of their column, and then what the task itself does."""
    for column, feature in rows.features.items():
        if isinstance(feature, dict) and set(feature) == {"bytes", "path"}:
            rows = rows.cast_column(column, datasets.Image())
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, dict):
            if set(feature.feature) == {"bytes", "path"}:
                rows = rows.cast_column(column, datasets.List(datasets.Image()))
        elif column == "image" and feature == datasets.Value("string"):
            rows = rows.map(partial(_absolute, folder=folder)).cast_column(column, datasets.Image())
    return rows if own is None else own(rows)


def _absolute(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return {"image": str(locate_image(folder, row["image"], False))}
    except BadImageError as error:
        raise UserError(f"{folder}: image {row['image']!r:.100}: {error}; fix its path") from error


def _has_column(file: Path, column: str) -> bool:
    with reading(file, "make it again"):
        builder = "parquet" if file.suffix == ".parquet" else "json"
        rows = datasets.load_dataset(builder, data_files=str(file), split="train", streaming=True)
        return column in next(iter(rows))


class _GQAImages:
    """GQA keeps images in a table of their own, which the task looks for on the hub: here beside the questions, in the
    folder that is named alike but for `images` in place of `instructions`."""

    def __init__(self, files: list[Path]):
        folder = files[0].parent
        other = folder.with_name(folder.name.replace("instructions", "images"))
        found = sorted(other.glob("*.parquet")) if other != folder else []
        if not found:
            raise UserError(f"{folder}: no images of GQA's beside it; put them into {other}, or into a column 'image'")
        with reading(other, "make it again"):
            self._rows = datasets.load_dataset("parquet", data_files=[str(file) for file in found], split="train")
            self._places = {name: place for place, name in enumerate(self._rows["id"])}

    def __call__(self, doc: Mapping[str, Any]) -> list[Any]:
        return [self._rows[self._places[doc["imageId"]]]["image"].convert("RGB")]
