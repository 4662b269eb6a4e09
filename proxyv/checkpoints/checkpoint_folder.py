"""Checkpoints of a stage: written aside, marked last, put into place at once; only an intact one is gone on from.

    <stage>/partial/                   what is being written, or was when the run was killed; removed at the next start
    <stage>/checkpoint-N/              the state behind step N
    <stage>/checkpoint-N/complete.json its files with their sizes and checksums, and what it was trained under
    <stage>/checkpoint-N.damaged/      one that was found damaged; nobody reads it again

The mark (complete.json) is written once every process has written its files, and is the last of them.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxyv.errors import UserError
from proxyv.files import read_json, sync, write_json
from proxyv.schema import describe_change

PARTIAL = "partial"
COMPLETE = "complete.json"
DAMAGED = ".damaged"
CONFIG = "config.json"  # by which a folder is known to hold a model
BLOCK = 2**24  # bytes read at once

Checksums = dict[str, list[int]]  # path in the folder → bytes, CRC-32


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint behind `step`, as Trainer names it."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named by."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(stage_folder: Path) -> list[Path]:
    """The checkpoints that are in place, intact or not, oldest first."""
    found = [path for path in stage_folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def checksums(folder: Path, part: int = 0, parts: int = 1) -> Checksums:
    """Sizes and checksums of a folder's files at any depth; of every `parts`-th one, so that processes can share."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / COMPLETE)
    return {str(path.relative_to(folder)): [path.stat().st_size, _crc(path)] for path in files[part::parts]}


def put_checkpoint(partial: Path, checkpoint: Path, files: Checksums, origin: Mapping[str, Any], keep: int) -> None:
    """Mark a checkpoint that all processes have written, bring it onto the disk, put it into place, and only then
    remove all but the `keep` newest.

    origin: what it was trained under; see `check_origin`.
    """
    for name in files:
        sync(partial / name)
    write_json(partial / COMPLETE, {"origin": origin, "files": files})
    for folder in {(partial / name).parent for name in files} | {partial}:
        sync(folder)
    partial.rename(checkpoint)
    sync(checkpoint.parent)
    for old in checkpoints(checkpoint.parent)[:-keep]:
        doomed = partial.with_name(old.name)
        old.rename(doomed)  # first, so that a kill leaves no half checkpoint in place
        shutil.rmtree(doomed)


def put_model(partial: Path, folder: Path) -> None:
    """Move a saved model's files into a stage's folder, the one by which it is known to be a model last."""
    files = sorted((path for path in partial.rglob("*") if path.is_file()), key=lambda path: path == partial / CONFIG)
    for path in files:
        sync(path)
    for path in files:
        target = folder / path.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(partial)
    sync(folder)


def clean(stage_folder: Path) -> None:
    """Remove what a killed run was about to write."""
    if (stage_folder / PARTIAL).exists():
        shutil.rmtree(stage_folder / PARTIAL)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is as it was written."""
    if not (checkpoint / COMPLETE).is_file():
        return f"{COMPLETE} is missing"
    try:
        listed: Checksums = read_json(checkpoint / COMPLETE)["files"]
        for name, (size, crc) in listed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _crc(path) != crc:
                return f"{name} is not what was written"
    except (UserError, KeyError, AttributeError, TypeError, ValueError):
        return f"{COMPLETE} cannot be read"
    except OSError as error:
        return f"cannot be read ({error})"
    return None


def newest_intact(stage_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of an interrupted stage (None: there is none at all), and one line for each newer
    one that is damaged. These are renamed, so that nothing takes them for checkpoints again.

    Raises UserError where there are checkpoints and none is intact; then nothing is renamed.
    """
    bad: dict[Path, str] = {}
    for checkpoint in reversed(checkpoints(stage_folder)):
        problem = damage(checkpoint)
        if problem is None:
            warnings = [_set_aside(path, f": {bad[path]}; going on from {checkpoint.name}") for path in bad]
            return checkpoint, warnings
        bad[checkpoint] = problem
    if bad:
        listed = "; ".join(f"{path.name}: {problem}" for path, problem in bad.items())
        raise UserError(
            f"{stage_folder}: no checkpoint is intact ({listed}); restore one, or delete the folder to begin the stage "
            "anew"
        )
    return None, []


def check_origin(checkpoint: Path, origin: Mapping[str, Any]) -> None:
    """Raise UserError where a checkpoint was trained under other conditions, of which its files are a part."""
    if change := describe_change(read_json(checkpoint / COMPLETE)["origin"], origin):
        raise UserError(f"{checkpoint}: {change}; go on as the run was begun, or give a new one another name")


def _set_aside(checkpoint: Path, reason: str) -> str:
    """Give a damaged checkpoint another name; returns a line that says so."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    if aside.exists():
        shutil.rmtree(aside)
    checkpoint.rename(aside)
    return f"{checkpoint} is damaged and now called {aside.name}{reason}"


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
