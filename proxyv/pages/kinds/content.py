"""Random labels, words, numbers and places, shared by the page kinds."""

import string

import numpy as np

from proxyv.pages.difficulty import Difficulty
from proxyv.pages.page import PageSpec, TextRun

VOWELS = "AEIOU"
CONSONANTS = "".join(letter for letter in string.ascii_uppercase if letter not in VOWELS)
BASE_LINES = 4
WORD_LENGTHS = (3, 5)
NUMBER_DIGITS = (2, 4)


def line_rows(rng: np.random.Generator, spec: PageSpec) -> list[int]:
    """The rows that hold a line of a document or chart, from top to bottom."""
    spare = spec.rows - BASE_LINES
    count = BASE_LINES + int(rng.integers(int(spec.difficulty.extra_lines * spare) + 1))
    return pick_rows(rng, spec, min(count, most_labels(spec.difficulty)))


def pick_rows(rng: np.random.Generator, spec: PageSpec, count: int) -> list[int]:
    """`count` different rows, from top to bottom."""
    return sorted(rng.choice(spec.rows, size=count, replace=False).tolist())


def most_labels(difficulty: Difficulty) -> int:
    """How many different labels there are."""
    return int(len(string.ascii_uppercase) ** difficulty.label_letters)


def labels(rng: np.random.Generator, spec: PageSpec, count: int) -> list[str]:
    """`count` different labels of `label_letters` letters each."""
    most = most_labels(spec.difficulty)
    if spec.difficulty.random_labels:
        numbers = rng.choice(most, size=count, replace=False).tolist()
    else:
        numbers = list(range(count))
    return [_letters(number, spec.difficulty.label_letters) for number in numbers]


def _letters(number: int, length: int) -> str:
    """`number` written in base 26 with the digits A to Z."""
    text = ""
    for _ in range(length):
        number, rest = divmod(number, len(string.ascii_uppercase))
        text = string.ascii_uppercase[rest] + text
    return text


def words(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different made-up words that can be pronounced: consonants and vowels in turn.

    No dictionary words, so that a language model cannot guess the end of one from its beginning.
    """
    found: list[str] = []
    while len(found) < count:
        length = int(rng.integers(WORD_LENGTHS[0], WORD_LENGTHS[1] + 1))
        picks = rng.random(length)
        text = ""
        for place, pick in enumerate(picks.tolist()):
            letters = VOWELS if place % 2 else CONSONANTS
            text += letters[int(pick * len(letters))]
        if text not in found:
            found.append(text)
    return found


def numbers(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different numbers without leading zeros."""
    found: list[str] = []
    while len(found) < count:
        digits = int(rng.integers(NUMBER_DIGITS[0], NUMBER_DIGITS[1] + 1))
        text = str(rng.integers(10 ** (digits - 1), 10**digits))
        if text not in found:
            found.append(text)
    return found


def scatter(rng: np.random.Generator, spec: PageSpec, texts: list[str]) -> list[TextRun]:
    """The texts in their order from top to bottom, each in a row of its own at a random column."""
    rows = pick_rows(rng, spec, len(texts))
    return [
        TextRun(row, int(rng.integers(spec.columns - len(text) + 1)), text)
        for row, text in zip(rows, texts, strict=True)
    ]
