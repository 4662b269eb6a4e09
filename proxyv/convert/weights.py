"""Reading a checkpoint's weights one file at a time. Nothing is unpickled but plain tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from proxyv.errors import UserError, reading
from proxyv.model.sources import check_source, indexed_files

_AGAIN = "download the file again"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What a model folder on the hub is made of, without its code.
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one checkpoint, in the order in which they are read."""

    files: tuple[Path, ...]

    def outline(self, file: Path) -> dict[str, torch.Tensor]:
        """Names, shapes and dtypes of one file's tensors, as tensors on the meta device; no data is read.

        Raises UserError for a `.bin` file that holds more than tensors, here and in what follows.
        """
        if file.suffix != ".safetensors":
            return _unpickle(file, "meta")
        with reading(file, _AGAIN), safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            return {
                name: torch.empty(of.get_shape(), dtype=_DTYPES.get(of.get_dtype(), torch.int64), device="meta")
                for name, of in slices.items()
            }

    def outlines(self) -> dict[str, torch.Tensor]:
        """`outline` of all files together."""
        return {name: tensor for file in self.files for name, tensor in self.outline(file).items()}

    def read(self, file: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """One file's tensors with their names, as saved, each loaded when its turn comes."""
        if file.suffix != ".safetensors":
            yield from _unpickle(file, "cpu").items()
            return
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                yield name, opened.get_tensor(name)


def find_weights(folder: Path) -> WeightFiles:
    """The weights of a model folder: what its index lists, else all safetensors, else all `pytorch_model*.bin`.

    Raises UserError where there are none, or one that the index lists is missing.
    """
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            return WeightFiles(tuple(indexed_files(index)))
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin); give the checkpoint's folder")
    return WeightFiles(tuple(files))


def locate(source: str | Path, field: str, weights: bool = True) -> Path:
    """The folder that `source` means: itself, or the download of a hub id.

    Args:
        field: what names the source, for the error.
        weights: also download weights; safetensors where there are any, else `.bin`.

    Raises UserError where it is neither.
    """
    check_source(source, field)
    if Path(source).is_dir():
        return Path(source)
    try:
        folder = Path(snapshot_download(str(source), allow_patterns=[*SMALL_FILES, *["*.safetensors"] * weights]))
        if weights and not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(str(source), allow_patterns=[*SMALL_FILES, "pytorch_model*.bin"]))
    except (OSError, ValueError) as error:
        raise UserError(f"{field}: '{source}' is neither a folder nor a hub id that can be reached") from error
    return folder


def _unpickle(file: Path, device: str) -> dict[str, torch.Tensor]:
    """A `.bin` file's tensors; torch refuses whatever else it holds. Raises UserError where there is such."""
    mapped = device == "cpu" and zipfile.is_zipfile(file)  # files of torch before 1.6 cannot be mapped
    with reading(file, "it must hold plain tensors; download it again or use safetensors"):
        found = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{file}: must hold a mapping of names to tensors")
    return found
