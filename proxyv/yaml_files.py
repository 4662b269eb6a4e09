"""One strict way to read a YAML file: one mapping, of a size that people write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf

from proxyv.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Far above any recipe. Aliases count as often as they are used: a few lines of them can stand for billions of values.
MOST_BYTES, MOST_VALUES, DEEPEST = 1_000_000, 100_000, 40


def read_yaml(path: str | Path) -> DictConfig:
    """Read one YAML mapping, interpolations unresolved.

    Raises UserError where the file is missing, cannot be read, is no mapping, or is larger than anybody writes.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}; give the path of a YAML file")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: larger than {MOST_BYTES // 1_000_000} MB; give a YAML file of fields")
        text = path.read_text(encoding="utf-8")
        _check_size(text)
        loaded = OmegaConf.load(io.StringIO(text))
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except Exception as error:  # the YAML library has several error classes, none of them public
        raise UserError(f"{path}: not valid YAML: {error}") from error
    return cast(DictConfig, loaded)


def _check_size(text: str) -> None:
    """Raise ValueError where there is no mapping, or one of more or deeper values than anybody writes, aliases written
    out."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):  # first, because what follows goes down as deep as the values
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"values nest more than {DEEPEST} deep{event.start_mark}")
    root = yaml.compose(text, Loader=LOADER)
    if root is not None:
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("must hold a mapping of fields")
        _expanded(root, {}, frozenset())


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]], above: frozenset[int]) -> tuple[int, int]:
    """How many values a node stands for, and how deep they nest; raises ValueError as `_check_size`."""
    if id(node) in above:
        raise ValueError(f"an alias stands within its own anchor{node.start_mark}")
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for item in inner for child in (item if isinstance(item, tuple) else (item,))]
        found = [_expanded(child, known, above | {id(node)}) for child in children]
        values, depth = 1 + sum(values for values, _ in found), 1 + max((depth for _, depth in found), default=0)
        if values > MOST_VALUES or depth > DEEPEST + 1:
            raise ValueError(f"more than {MOST_VALUES} values, or more than {DEEPEST} deep{node.start_mark}")
        known[id(node)] = values, depth
    return known[id(node)]
