"""One strict way to read a YAML file: one mapping, of a size that people write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf

from proxyv.errors import UserError

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
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode | None):
            raise UserError(f"{path}: must hold a mapping of fields, found none")
        _expanded(root, {}, ())
        loaded = OmegaConf.load(io.StringIO(text))
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{path}: not valid YAML: values nest more than {DEEPEST} deep") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except Exception as error:  # the YAML library has several error classes, none of them public
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return cast(DictConfig, loaded)


def _expanded(node: yaml.Node | None, known: dict[int, int], above: tuple[int, ...]) -> int:
    """The number of values in a node, aliases written out. Raises ValueError where there are too many, they nest too
    deep, or an alias lies in what it stands for."""
    if node is None:
        return 0
    if id(node) in above:
        raise ValueError(f"an alias stands within its own anchor ({node.start_mark})")
    if len(above) > DEEPEST:
        raise ValueError(f"values nest more than {DEEPEST} deep ({node.start_mark})")
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for item in inner for child in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded(child, known, (*above, id(node))) for child in children)
    if known[id(node)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values ({node.start_mark})")
    return known[id(node)]
