"""The YAML files of a recipe, and overrides, composed into one mapping.

A file names `parts` (other files, relative to itself) that are merged in order, then its own fields on top, then the
command line's `--a.b value`. `${…}` is resolved at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from proxyv.errors import UserError
from proxyv.schema import resolved
from proxyv.yaml_files import read_yaml

# FileFields as a file has them: plain values, interpolations unresolved.
FileFields = dict[str, Any]


def composed(path: Path, overrides: Sequence[str] = ()) -> FileFields:
    """All fields of a file, its parts and the overrides (`["method.start_layer=16", …]`), resolved.

    Raises UserError for a missing file, one that is no YAML mapping, `parts` that lead in a circle, an override that
    is none, and an interpolation that leads nowhere.
    """
    try:
        merged = _read_with_parts(path, (), {})
        for override in overrides:
            merged = _merge(merged, _parse_override(override))
    except (OmegaConfBaseException, TypeError) as error:
        raise UserError(f"{path}: cannot be merged: {str(error).splitlines()[0]}") from error
    return resolved(OmegaConf.create(merged), str(path))


def _read_with_parts(path: Path, parents: tuple[Path, ...], known: dict[Path, FileFields]) -> FileFields:
    """The file with all its parts merged below it; parts of parts included. `known`: what has been read already."""
    file = path.resolve()
    if file in parents:
        raise UserError(f"{path}: 'parts' leads back to the file itself; remove one of the two")
    if file not in known:
        own = read_yaml(path)
        parts = own.pop("parts", [])
        if not isinstance(parts, (list, ListConfig)) or not all(isinstance(part, str) for part in parts):
            raise UserError(f"{path}: parts: must be a list of files, such as [../llm/tiny.yaml]")
        merged: FileFields = {}
        for part in parts:
            merged = _merge(merged, _read_with_parts(path.parent / part, (*parents, file), known))
        known[file] = _merge(merged, _plain(own))
    return known[file]


def _plain(config: DictConfig) -> FileFields:
    return cast(FileFields, OmegaConf.to_container(config))


def _parse_override(override: str) -> FileFields:
    field, equals, _ = override.partition("=")
    if not equals or not all(field.split(".")):
        raise UserError(f"override '{override}': write it as --field.subfield value")
    try:
        parsed = OmegaConf.from_dotlist([override])
    except Exception as error:  # of the YAML library and OmegaConf, see read_yaml
        raise UserError(f"override '{override}': {str(error).splitlines()[0]}; the value must be YAML") from error
    if OmegaConf.missing_keys(parsed):  # merging would pass over it
        raise UserError(f"override '{override}': '???' is no value; give one")
    return _plain(parsed)


def _forget_renamed(base: FileFields, top: FileFields, keys: Iterable[str], name: str) -> None:
    """Delete from `base` the mappings at `keys`, or inside them, in which `top` has something else at `name`."""
    for key in keys:
        old, new = base.get(key), top.get(key)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            continue
        if new.get(name, old.get(name)) != old.get(name):
            del base[key]
        else:
            _forget_renamed(old, new, new, name)


def _merge(base: FileFields, top: FileFields) -> FileFields:
    """Merge `top` over `base`; a `method` with another name replaces the whole method, and so does one inside it, and
    the `config` of an LLM or a tower with another `model_type`. Nobody else may need `base`, which is changed."""
    _forget_renamed(base, top, ["method"], "name")
    for part in ("llm", "vision"):
        if isinstance(base.get(part), dict) and isinstance(top.get(part), dict):
            _forget_renamed(base[part], top[part], ["config"], "model_type")
    if _reaches_into_interpolation(base, top):
        return _plain(cast(DictConfig, OmegaConf.merge(base, top)))
    _put_over(base, top)
    return base


def _put_over(base: FileFields, top: FileFields) -> None:
    """As OmegaConf.merge, which copies all of `base` each time: mappings field by field, all else as a whole."""
    for key, new in top.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            _put_over(old, new)
        elif new != MISSING or key not in base:
            base[key] = deepcopy(new)


def _reaches_into_interpolation(base: FileFields, top: FileFields) -> bool:
    """Whether `top` has fields of what is only a reference (`${…}`) in `base`."""
    both = [(base[key], new) for key, new in top.items() if key in base and isinstance(new, dict)]
    return any(
        _reaches_into_interpolation(old, new) if isinstance(old, dict) else "${" in str(old) for old, new in both
    )
