"""Result files checked against their types: what a file holds must be of the kind that its TypedDict says.

A field that is absent passes unless it is needed: files of earlier versions lack some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from proxyv.errors import UserError

Record = TypeVar("Record")
REMEDY = "make the file again with the command that wrote it"
_LARGEST = 10**100  # of numbers, whose squares must be floats


def checked(value: Any, record: type[Record], file: str | Path, needed: Sequence[str] = ()) -> Record:
    """The value of a file, as the TypedDict `record`.

    needed: paths of fields that must be there, as "scores" or "benchmarks.*.title" (* stands for every key or item).

    Raises UserError for the first field that is of another kind, or is needed and missing.
    """
    problem = _mismatch(value, record, "") or next(
        (p for p in (_missing(value, n.split(".")) for n in needed) if p), None
    )
    if problem:
        raise UserError(f"{file}: {problem}; {REMEDY}")
    return cast(Record, value)


def _mismatch(value: Any, hint: Any, path: str) -> str | None:
    """What is wrong with a value of that type, in words; None where nothing is."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return None
    if origin in (Union, UnionType):
        return None if any(_mismatch(value, one, path) is None for one in inner) else _mismatch(value, inner[0], path)
    if is_typeddict(hint):
        if not isinstance(value, Mapping):
            return _wrong(value, path, "a mapping")
        hints = get_type_hints(hint)
        return _first(value, path, lambda key: hints.get(key, Any))
    if origin is dict:
        return (
            _first(value, path, lambda key: inner[1])
            if isinstance(value, Mapping)
            else _wrong(value, path, "a mapping")
        )
    if origin is list:
        if not isinstance(value, list):
            return _wrong(value, path, "a list")
        return _first(dict(enumerate(value)), path, lambda key: inner[0])
    if origin is Literal:
        return None if value in inner else _wrong(value, path, " or ".join(map(repr, inner)))
    return None if _is(value, hint) else _wrong(value, path, _KINDS.get(hint, str(hint)))


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = isinstance(value, int) or kind is float or (number and float(value).is_integer())  # 1e12 is whole
        return number and whole and abs(value) < _LARGEST and math.isfinite(value)
    return isinstance(value, kind)


def _first(values: Mapping[Any, Any], path: str, hint: Any) -> str | None:
    """The first mismatch among the values of a mapping, of which `hint` tells the types by key."""
    below = f"{path}." if path else ""
    found = (_mismatch(value, hint(key), f"{below}{key}") for key, value in values.items())
    return next((one for one in found if one), None)


def _wrong(value: Any, path: str, kind: str) -> str:
    return f"field '{path}' is {value!r:.60} and must be {kind}" if path else f"must hold {kind}"


def _missing(value: Any, path: Sequence[str], above: str = "") -> str | None:
    """The first field on a path that is not there, in words; None where all are."""
    if not path or value is None:
        return None
    name, rest = path[0], path[1:]
    if name == "*":
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return next((one for one in (_missing(v, rest, f"{above}{k}.") for k, v in items) if one), None)
    if name not in value:
        return f"field '{above}{name}' is missing"
    return _missing(value[name], rest, f"{above}{name}.")
