"""The error that wrong input raises; the command line turns it into one line and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input from the user. The message is one line that names the file or field and the remedy."""


class FieldError(UserError):
    """A field of the recipe that does not fit, e.g. `method.tokens`, apart from what is wrong with it: a combination
    raises it again as `method.before_llm.tokens`."""

    def __init__(self, field: str, problem: str, section: str = "method"):
        super().__init__(field, problem, section)
        self.field, self.problem, self.section = field, problem, section

    def __str__(self) -> str:
        return f"{self.section}.{self.field}: {self.problem}"


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(sorted(words))}"
