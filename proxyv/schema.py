"""YAML files and mappings made into dataclasses, strictly: what is not a field, or is missing, is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from proxyv.errors import UserError, suggest

Schema = TypeVar("Schema")


def read_yaml(path: str | Path) -> DictConfig:
    """Read one YAML mapping. Raises UserError where the file is missing or is no mapping."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a YAML file")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # the YAML library has several error classes, none of them public
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold a mapping of fields, found a {type(loaded).__name__}")
    return loaded


def load_dataclass(schema: type[Schema], path: str | Path) -> Schema:
    """Read a YAML file into a dataclass. Raises UserError as `read_yaml` and `from_mapping` do."""
    return from_mapping(schema, read_yaml(path), str(path))


def from_mapping(schema: type[Schema], values: Mapping[str, Any] | DictConfig, source: str) -> Schema:
    """Make a `schema` dataclass from a mapping; `source` names the file in errors.

    Raises UserError for unknown keys (with the nearest known one) and missing fields, at any depth, and for values of
    the wrong type.
    """
    plain = OmegaConf.to_container(OmegaConf.create(cast(DictConfig, values)), resolve=False)
    _check_fields(schema, cast("dict[str, Any]", plain), source)
    try:
        return cast(Schema, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise UserError(f"{source}: field '{key}': {str(error).splitlines()[0]}") from error


def _check_fields(schema: type, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
    """Raise UserError for the first key that `schema` does not have, or the first field that has no value."""
    hints = get_type_hints(schema)
    for key in values:
        if key not in hints:
            raise UserError(f"{source}: unknown key '{prefix}{key}'{suggest(str(key), hints)}")
    for known in dataclasses.fields(schema):
        if _is_required(known) and known.name not in values:
            raise UserError(f"{source}: field '{prefix}{known.name}' is missing; add it")
    for key, value in values.items():
        for inner, fields, path in _inner(hints[key], value, f"{prefix}{key}"):
            _check_fields(inner, fields, source, path)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default, in Python's way or in OmegaConf's, which allows required fields behind others."""
    no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return no_default or field.default == MISSING


def _inner(hint: Any, value: Any, path: str) -> Iterator[tuple[type, Mapping[str, Any], str]]:
    """The mappings in a field's value that become dataclasses, with these and the paths of their keys.

    A field holds a dataclass, a dataclass or None, or a list or a mapping of dataclasses.
    """
    inner = next((one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)), None)
    items = {f"{path}.": value}
    if get_origin(hint) is dict:
        items = {f"{path}.{name}.": one for name, one in value.items()} if isinstance(value, Mapping) else {}
    if get_origin(hint) is list:
        items = {f"{path}[{index}].": one for index, one in enumerate(value)} if isinstance(value, list) else {}
    for where, fields in items.items():
        if inner is not None and isinstance(fields, Mapping):
            yield cast(type, inner), fields, where


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
