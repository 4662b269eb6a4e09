"""MMMU (Yue et al. 2023, arXiv:2311.16502): letters and open answers by the benchmark's own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.metric import metric

# How a letter may be written, from the surest on, and where the last of several is looked for.
_WRITTEN = (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} "))
_LONG_ANSWER = 5  # words beyond which an option's text is looked for

_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NO_ANSWERS = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 1.2, .2
)


@metric(needs=("question_type", "options"))
def mmmu(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the letter is right, or an open answer holds the reference.

    As the benchmark's code and lmms-eval, but for one thing: where an answer names no option they guess one at random,
    and here it is wrong.
    """
    if row["question_type"] == "multiple-choice":
        return {"mmmu": float(_letter(prediction, row["options"]) == references[0])}
    golds = _comparable(references[0])
    return {"mmmu": float(any(_holds(part, golds) for part in _parts(prediction)))}


def _letter(answer: str, options: Mapping[str, str]) -> str | None:
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    text = f" {answer} "
    for form, place in _WRITTEN:
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    lower = text.lower()
    named = [letter for letter, option in options.items() if option.lower() in lower]
    if not named or len(text.split()) <= _LONG_ANSWER:
        return None
    return max(named, key=lambda letter: lower.rfind(options[letter].lower()))


def _parts(answer: str) -> Iterator[str | float]:
    """What an open answer says, in the form golds are compared in: its key phrases and the numbers in them."""
    text = answer.strip().strip(".").lower()
    phrases = [phrase for phrase in _key_phrases(text.split("\n")) if phrase and phrase not in _NO_ANSWERS] or [text]
    for phrase in phrases:
        for part in (phrase, *(number for pattern in _NUMBERS for number in pattern.findall(phrase))):
            yield from _comparable(part)


def _key_phrases(lines: Sequence[str]) -> Iterator[str]:
    """Of each line the shortest of what follows words such as "is"; of the last line also what follows "="."""
    for number, line in enumerate(lines, start=1):
        shortest = ""
        for key in (*_KEYS, "=") if number == len(lines) else _KEYS:
            tail = line.split(key)[-1].strip()
            if key in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        yield shortest


def _comparable(text: str) -> list[str | float]:
    """A number to two decimals, or lower case; a single character with a blank at either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
    return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def _holds(part: str | float, golds: Sequence[str | float]) -> bool:
    if isinstance(part, float):
        return part in golds
    return any(isinstance(gold, str) and gold in part for gold in golds)
