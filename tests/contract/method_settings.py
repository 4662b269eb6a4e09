"""How each method is set up for the contract tests; a method whose defaults fit the tiny model needs no file.

`methods/<name>.yaml` may hold
    fields   values that fit the tiny model: three decoder layers of width 32, crops of 4 × 4 vision tokens, a CLIP
             tower of three layers and width 32 whose features are hidden state −2
    other    field → fields to set; each alone must change what is built or what comes out (default: see `_other`)
    no_op    fields under which the method equals `full`
    refuses_reentrant_checkpointing    fields under which that kind would be wrong and is refused
"""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from proxyv.methods import __path__, method_classes

# Without methods of folders outside the package.
SHIPPED = [n for n, m in sorted(method_classes().items()) if Path(inspect.getfile(m)).parent == Path(__path__[0])]
FOLDER = Path(__file__).parent / "methods"


def settings(name: str) -> dict[str, Any]:
    """The file of a method, or nothing."""
    path = FOLDER / f"{name}.yaml"
    return OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}


def method_fields(name: str, **changed: Any) -> dict[str, Any]:
    """A `method` mapping that fits the tiny model."""
    return {"name": name, **settings(name).get("fields", {}), **changed}


def every_field() -> list[tuple[str, str, dict[str, Any]]]:
    """(method, field, fields to set) for every field of every method."""
    found = []
    for name, method in sorted(method_classes().items()):
        given = settings(name).get("other", {})
        for field in dataclasses.fields(method):
            value = method_fields(name).get(field.name, field.default)
            found.append((name, field.name, given.get(field.name) or {field.name: _other(value)}))
    return found


def _other(value: Any) -> Any:
    """A different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return type(value)(value / 2) if value > 1 or isinstance(value, float) else value + 1
    raise ValueError(f"no other value is known for {value!r}; name one under `other` in {FOLDER}")
