"""Mappings made into dataclasses, strictly: every field's domain is in its type (proxyv/domains.py).

What is no field, is missing, or lies outside its domain is an error of one line with the path of the field.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from proxyv.errors import UserError, suggest
from proxyv.yaml_files import read_yaml

Schema = TypeVar("Schema")
Location = Sequence[int | str]

_UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
# What pydantic says of a value's type, by the beginning of the error's, in the words of YAML.
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "dataclass": "a mapping of fields",
}


def load_dataclass(schema: type[Schema], path: str | Path) -> Schema:
    """Read a YAML file into a dataclass. Raises UserError as `read_yaml` and `from_mapping` do."""
    return from_mapping(schema, resolved(read_yaml(path), str(path)), str(path))


def resolved(config: DictConfig, source: str) -> dict[str, Any]:
    """A configuration as plain values, its interpolations resolved (`${seed}`: another field, `${oc.env:HOME}`: an
    environment variable). Raises UserError where one leads nowhere."""
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (OmegaConfBaseException, RecursionError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{source}: {getattr(error, 'full_key', None) or 'interpolation'}: {problem}") from error


def from_mapping(schema: type[Schema], values: Mapping[Any, Any], source: str = "", section: str = "") -> Schema:
    """Make a `schema` dataclass from a mapping of plain values.

    Args:
        source: the file, named in errors; "": none.
        section: path of the mapping in the file, e.g. "method"; "": the whole file.

    Raises UserError for the first unknown key (with the nearest known one), missing field, or value outside its
    field's domain, at any depth.
    """
    try:
        return cast(Schema, _adapter(cast(type, schema)).validate_python(dict(values)))
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda found: found["type"] not in _UNKNOWN)
        problem = first.get("ctx", {}).get("error")
        if isinstance(problem, UserError):  # of a dataclass that checks its own fields
            raise problem from error
        said = _in_words(schema, cast("dict[str, Any]", first), f"{section}." if section else "")
        raise UserError(f"{source}: {said}" if source else said) from error


def check_dataclass(value: Any, section: str = "") -> None:
    """Raise UserError for the first field of a dataclass, at any depth, outside its domain: as `from_mapping`, for
    one that was made in Python."""
    from_mapping(type(value), dataclasses.asdict(value), section=section)


def as_plain(value: Any) -> dict[str, Any]:
    """A dataclass as it reads back from a YAML or JSON file: tuples are lists."""
    return cast("dict[str, Any]", _adapter(cast(type, type(value))).dump_python(value, mode="json"))


@cache
def _adapter(schema: type) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _in_words(schema: type, error: dict[str, Any], prefix: str) -> str:
    """A ValidationError's entry as "path: what must be, what was found"."""
    location, found = error["loc"], error["input"]
    if error["type"] in _UNKNOWN:
        known = [field.name for field in dataclasses.fields(cast(Any, type_at(schema, location[:-1])))]
        hint = suggest(str(location[-1]), known) if known else "; there is no field"
        above = path_of(location[:-1])
        return f"unknown key '{prefix}{above}{'.' if above else ''}{location[-1]}'{hint}"
    is_key = location[-1:] == ("[key]",)
    path = f"{prefix}{path_of(location[:-2] if is_key else location)}".rstrip(".") + (": key" if is_key else "")
    if error["type"] == "missing":
        return f"field '{path}' is missing; add it"
    between = " " if is_key else ": "
    if error["type"] == "literal_error":
        known = [str(word) for word in get_args(type_at(schema, location))]
        return f"{path}{between}{_short(found)} is unknown{suggest(str(found), known)}"
    if "error" in error.get("ctx", {}):  # of a validator in domains.py
        return f"{path}{between}{error['ctx']['error']}, found {_short(found)}"
    kind = error["type"].split("_")[0]
    said = f"must be {_TYPES[kind]}" if kind in _TYPES else re.sub("^[A-Z][a-z]+ should", "must", error["msg"])
    said = said.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"{path}{between}{said.split(' after ')[0]}, found {_short(found)}"


def _short(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return short.repr(value)


def path_of(location: Location) -> str:
    """("stages", "a", "data", 0) → "stages.a.data[0]", in one line."""
    parts = (f"[{part}]" if isinstance(part, int) else "." + "".join(part.splitlines()) for part in location)
    return "".join(parts).removeprefix(".")


def type_at(schema: Any, location: Location) -> Any:
    """The type of the field, item or value at a location, without its annotations and without None."""
    for index, part in enumerate(location):
        schema, is_key = _bare(schema), "[key]" in location[index + 1 : index + 2]
        if dataclasses.is_dataclass(schema):
            schema = get_type_hints(schema, include_extras=True)[str(part)]
        elif part != "[key]":
            schema = get_args(schema)[1 if get_origin(schema) is dict and not is_key else 0]
    return _bare(schema)


def _bare(hint: Any) -> Any:
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        hint = next(inner for inner in get_args(hint) if inner is not type(None))
    return hint


def first_difference(one: Any, other: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """The first field, at any depth, in which two mappings differ, and its two values; None where they are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        below = f"{field}." if field else ""
        parts = (first_difference(one.get(k), other.get(k), f"{below}{k}") for k in sorted({*one, *other}))
        return next((part for part in parts if part), None)
    return None if one == other else (field, one, other)


def describe_change(old: Any, new: Any, field: str = "") -> str | None:
    """`first_difference` in words: "seed was 0 and is 1"; None where the two are equal."""
    found = first_difference(old, new, field)
    return found and f"{found[0]} was {found[1]!r} and is {found[2]!r}"
