"""What a record must be to become a sample. A record that is not is bad: refused or skipped, never guessed at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyv.constants import IMAGE_TOKEN
from proxyv.errors import UserError, suggest

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}

Message = dict[str, str]


class BadRecordError(UserError):
    """A record that cannot be used; the message says why, and where a reader raises it, which one."""


@dataclass(frozen=True)
class Sample:
    """One record: a conversation with images, or an image with the characters that stand on it.

    images: files, or the bytes of encoded images, in the order of the `<image>` marks.
    messages: `{"role", "content"}`: at most one "system" in front, then "user" and "assistant" in turn.
    grid: one string a row of characters; only from `GlyphReader`.
    number: the record's place in its data set, from 0; set by `Reader`.
    """

    id: str
    source: str
    images: tuple[Path | bytes, ...] = ()
    messages: tuple[Message, ...] = ()
    grid: tuple[str, ...] = field(default=())
    number: int | None = None

    @property
    def marks(self) -> int:
        """`<image>` marks in the user's turns."""
        return count_marks(self.messages)


def to_messages(turns: Any, images: int) -> tuple[Message, ...]:
    """A record's `[{"from", "value"}, …]` as messages, for a record with so many images.

    An answer in front of the first question is dropped, as upstream does. Only a user's `<image>` stands for an image,
    and only in a record that has some; all others are text.

    Raises BadRecordError for anything but texts of known roles in turn, and for more or fewer marks than images.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise BadRecordError("has no 'conversations'; give a list of turns")
    messages = [_to_message(turn) for turn in turns]
    if messages[0]["role"] == "assistant":
        messages = messages[1:]
    _check_turns(messages)
    if not images:
        return tuple(messages)
    messages = [_mark_first(message) for message in messages]
    if (marks := count_marks(messages)) != images:
        raise BadRecordError(f"has {marks} {IMAGE_TOKEN} mark(s) but {images} image(s); make them equal")
    return tuple(messages)


def count_marks(messages: Sequence[Message]) -> int:
    """`<image>` in the user's turns."""
    return sum(message["content"].count(IMAGE_TOKEN) for message in messages if message["role"] == "user")


def mark_in_front(text: str) -> str:
    """A turn's only `<image>` goes to its front and the rest is stripped, as LLaVA's preprocessing does.

    Turns without mark, with several, or with the mark in front already stay as they are, blanks included.
    """
    if text.count(IMAGE_TOKEN) != 1 or text.startswith(IMAGE_TOKEN):
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}"


def check_text(value: Any, field: str) -> str:
    """`value`, where it is a text that can be written. Raises BadRecordError for anything else."""
    if not isinstance(value, str):
        raise BadRecordError(f"'{field}' is {_kind(value)}; give a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"'{field}' holds half a character (a lone surrogate); mend the text") from error
    return value


def read_json_records(file: Path, field: str) -> list[dict[str, Any] | BadRecordError]:
    """The records of a JSON list, or of a `.jsonl` file with one a line; in place of a bad one what is wrong with it.

    field: of the recipe, for errors. Raises UserError for a file that cannot be read or is no list of records.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            lines = enumerate(text.split("\n"), start=1)
            return [_record_of_line(line, number) for number, line in lines if line.strip()]
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "fix the file" if file.suffix == ".jsonl" else "fix the file, or name it .jsonl if each line is a record"
        raise UserError(f"{field}: {file} is not valid JSON ({error}); {hint}") from error
    except OSError as error:
        raise UserError(f"{field}: {file} cannot be read ({error.strerror}); fix it or its path") from error
    if not isinstance(loaded, list):
        raise UserError(f"{field}: {file} must hold a JSON list of records; it is {_kind(loaded)}")
    return [_object(record) for record in loaded]


def _record_of_line(line: str, number: int) -> dict[str, Any] | BadRecordError:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:
        return BadRecordError(f"is no JSON in line {number} ({error}); mend the line")


def _object(record: Any) -> dict[str, Any] | BadRecordError:
    return record if isinstance(record, dict) else BadRecordError(f"is {_kind(record)}; give an object")


def _to_message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecordError(f"a turn is {_kind(turn)}; each needs a 'from' and a 'value'")
    if not isinstance(turn.get("from"), str) or turn["from"] not in ROLES:
        raise BadRecordError(f"'from' is {turn.get('from')!r:.50}{suggest(str(turn.get('from'))[:50], ROLES)}")
    return {"role": ROLES[turn["from"]], "content": check_text(turn.get("value"), "value")}


def _check_turns(messages: Sequence[Message]) -> None:
    """Raise BadRecordError unless user and assistant speak in turn, the user first, behind one system line at most."""
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        raise BadRecordError("has no question; give a turn of 'human'")
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(spoken)):
        raise BadRecordError(
            f"has turns of {', '.join(roles):.80}; human and gpt must take turns, system only in front"
        )


def _mark_first(message: Message) -> Message:
    return {**message, "content": mark_in_front(message["content"])} if message["role"] == "user" else message


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "a list" if isinstance(value, (list, tuple)) else "an object")
