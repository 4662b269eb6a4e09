"""Domains: the types of fields of recipes, methods and benchmark files, each with the values it may have.

A field of a `Declared` dataclass says by its type which values it takes; `proxyv.schema` reads it from the type and
refuses the rest. Numbers are finite and no truth values. Where only the rest of the recipe, the model or an open list
decides (the layers of a tower, the readers there are), the type says who checks: `CheckedBy`.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

MOST = 2**31 - 1  # of a count: sizes and indices are 32-bit numbers somewhere below
LONGEST_NAME = 200  # bytes; file systems take 255, and names get endings
LONGEST_PLACE = 1000  # bytes; systems take 4096, and a place may lie below another


class Declared:
    """Base of dataclasses whose fields have domains: no other fields are taken."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


@dataclass(frozen=True)
class CheckedBy:
    """Mark of a field whose values are checked elsewhere, beyond their type; `place` is where."""

    place: str


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _refuse_control(value: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in value):
        raise ValueError("must be text without control characters")
    return value


def _check_place(value: str) -> str:
    if not value.strip() or any(character in "\n\t" for character in value):
        raise ValueError("must be a path or a hub id")
    if value.startswith("~"):
        raise ValueError("must be a path written out ('~' would be a folder of that name; ${oc.env:HOME} is yours)")
    if len(value.encode()) > LONGEST_PLACE or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError(f"must be a path that systems take (255 bytes between separators, {LONGEST_PLACE} in all)")
    return value


def _check_output(value: str) -> str:
    if Path(os.path.normpath(value)).parts[:1] == ("..",):
        raise ValueError("must not lead out of the working folder; write an absolute path")
    return value


def _check_name(value: str) -> str:
    wrong = value != value.strip() or value.startswith(".") or any(character in "/\\\n\t" for character in value)
    if not value or wrong or len(value.encode()) > LONGEST_NAME:
        raise ValueError(
            f"must be a plain name for a file or folder (no separators, no leading dot, 1 to {LONGEST_NAME} bytes)"
        )
    return value


def _refuse_twice(value: list[Any]) -> list[Any]:
    for item in value:
        if value.count(item) > 1:
            raise ValueError(f"must name '{item}' once")
    return value


NUMBER = BeforeValidator(_refuse_bool)
ONCE = AfterValidator(_refuse_twice)  # of a list in which nothing stands twice
_FINITE = Field(allow_inf_nan=False)

Count = Annotated[int, NUMBER, Field(ge=1, le=MOST)]
Size = Annotated[int, NUMBER, Field(ge=0, le=MOST)]  # a count that may be 0
Index = Annotated[int, NUMBER, Field(ge=-MOST, le=MOST)]  # negative ones count from the end
Seed = Annotated[int, NUMBER, Field(ge=0, le=2**32 - 1)]  # what NumPy's and torch's generators take alike

Positive = Annotated[float, NUMBER, _FINITE, Field(gt=0)]
NotNegative = Annotated[float, NUMBER, _FINITE, Field(ge=0)]
Share = Annotated[float, NUMBER, _FINITE, Field(ge=0, le=1)]
PositiveShare = Annotated[float, NUMBER, _FINITE, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, NUMBER, _FINITE, Field(ge=0, lt=1)]

Text = Annotated[str, AfterValidator(_refuse_control)]
Place = Annotated[Text, AfterValidator(_check_place)]  # a path or a hub id
OutputFolder = Annotated[Place, AfterValidator(_check_output)]
Name = Annotated[Text, AfterValidator(_check_name)]  # of a stage, a data set, a run: it names files and folders
