"""Broken input: nasty values, and mutations of trees (as JSON and YAML hold them) and of bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Raw:
    """A value that no Python object stands for: its text as it is, in JSON and in YAML."""

    text: str


DEEP = Raw("[" * 3000 + "]" * 3000)
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e-320),
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"), Raw("-1e400")),
    *(
        "",
        " ",
        "x",
        "nope",
        "1",
        "-1",
        "1e400",
        "nan",
        "null",
        "a" * 100_000,
        "\u0000",
        "\ud800",
        "\n",
        "${a}",
        "\u202e",
    ),
    *("..", "../..", "/", "/dev/null", "/dev/zero", "a/b", "${oc.env:HOME}", "{{", "{% for", "???"),
    *([], {}, [None], [[]], [{}], {"": None}, {"a": {"b": []}}, [1, "a", None], [0, -1], DEEP),
)
nasty_values = st.sampled_from(NASTY) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value of a tree of mappings and lists, the root's () first."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@dataclass(frozen=True)
class Change:
    """One change of a tree at `path`: `drop` it, `set` it to `value`, `add` a key beside it, `wrap` it in a list, or
    make it a `text`."""

    path: tuple[Any, ...]
    action: str
    value: Any = None

    def of(self, tree: Any) -> Any:
        """The changed copy of a tree."""
        tree = copy.deepcopy(tree)
        if not self.path:
            return self.value if self.action in ("set", "drop") else [tree]
        parent = tree
        for key in self.path[:-1]:
            parent = parent[key]
        last = self.path[-1]
        if self.action == "drop":
            del parent[last]
        elif self.action == "wrap":
            parent[last] = [parent[last]]
        elif self.action == "text":
            parent[last] = str(parent[last])
        elif self.action == "add" and isinstance(parent, dict):
            parent["unknown_field"] = self.value
        else:
            parent[last] = self.value
        return tree

    def __repr__(self) -> str:
        where = ".".join(map(str, self.path)) or "(root)"
        return f"{self.action} {where}" + (f" = {self.value!r:.80}" if self.action in ("set", "add") else "")


def changes(tree: Any, only: Any = lambda path: True) -> st.SearchStrategy[Change]:
    """Changes at the places of a tree whose path is wanted."""
    paths = [path for path in places(tree) if only(path)]
    actions = st.sampled_from(["set", "set", "set", "set", "drop", "wrap", "text", "add"])
    return st.builds(Change, st.sampled_from(paths), actions, nasty_values)


def to_json(tree: Any) -> str:
    """A tree as JSON text, which is YAML as well; `Raw` values as they are."""
    raws: list[str] = []

    def stand_in(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value.text)
            return f"@raw{len(raws) - 1}@"
        if isinstance(value, dict):
            return {key: stand_in(one) for key, one in value.items()}
        return [stand_in(one) for one in value] if isinstance(value, list) else value

    text = json.dumps(stand_in(tree))
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text


@dataclass(frozen=True)
class Damage:
    """Damage to a file's bytes: `cut` behind a share of them, `flip` bits there, `fill` with zeros from there on,
    `prepend` or `append` rubbish, or another `whole` content."""

    action: str
    where: float = 0.0  # share of the file, 0 to 1
    value: bytes = b""

    def of(self, content: bytes) -> bytes:
        """The damaged bytes."""
        at = min(int(self.where * len(content)), max(len(content) - 1, 0))
        if self.action == "cut":
            return content[:at]
        if self.action == "flip":
            return content[:at] + bytes(byte ^ 0x55 for byte in content[at : at + 3]) + content[at + 3 :]
        if self.action == "fill":
            return content[:at] + bytes(len(content) - at)
        if self.action == "prepend":
            return self.value + content
        return content + self.value if self.action == "append" else self.value


RUBBISH = (
    b"",
    b"\x00",
    b"\xff\xfe\x00\x01",
    b"\x80\x04\x95",
    b"null",
    b"[]",
    b"{}",
    b'{"a"',
    b"\xef\xbb\xbf{}",
    b"\x89PNG",
)
damages = st.builds(
    Damage,
    st.sampled_from(["cut", "cut", "flip", "flip", "fill", "prepend", "append", "whole"]),
    st.floats(0, 1),
    st.sampled_from(RUBBISH),
)
