"""Files: written whole or not at all, JSON lines that survive a crash, a full disk, and where the checkout lies."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxyv.errors import UserError, reason

# The root of the repository where the package runs from a checkout; elsewhere a folder without configs/ and eval/.
CHECKOUT = Path(__file__).resolve().parents[1]

# A full disk, a full quota, a file longer than allowed; and how safetensors and torch (whose zip writer finds that what
# it wrote is not there) say so.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_IN_WORDS = re.compile(
    rf"\(os error ({'|'.join(map(str, _FULL))})\)|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"
)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


MAKE_AGAIN = "delete the file and make it again"


def read_json(path: Path, remedy: str = MAKE_AGAIN) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError, with `remedy`, where it is missing or anything else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the evaluation first or fix the path")
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({reason(error)}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object, found a {type(value).__name__}; {remedy}")
    return value


def parse_json(text: str | bytes) -> Any:
    """A JSON text's value. Raises ValueError for numbers that are not finite and for characters that are no text, both
    of which Python would take; RecursionError for hundreds of brackets in each other."""
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a character, as "\\ud800", cannot be written again
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines, whole or not at all."""
    write_text(path, "".join(to_line(record) for record in records))


def to_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all: beside the target, onto the disk, then under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turn a disk that takes no more into a UserError that names what was to be written."""
    try:
        yield
    except Exception as error:  # safetensors and torch have no class for it that one could name
        if getattr(error, "errno", None) not in _FULL and not _FULL_IN_WORDS.search(str(error)):
            raise
        raise UserError(f"{what}: the disk takes no more ({error}); free some space, then go on") from error


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSONL file; a last line that was torn by a crash is left out.

    Raises UserError where the file is missing or a line before the last is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the evaluation first or fix the path")
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is torn
        try:
            records.append(parse_json(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1:
                break
            raise UserError(f"{path}: line {number} is damaged; restore the file, or delete it") from error
    return records
