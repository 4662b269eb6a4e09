"""The error that wrong input raises; the command line turns it into one line and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_LINE = 2000  # characters of a message; a value in it may be a whole file
LONGEST_REASON = 300  # characters of a library's own message that are shown


class UserError(ValueError):
    """Wrong input from the user. The message is one line that names the file or field and the remedy.

    It is made one line of bounded length whatever names and values of the user's it quotes.
    """

    def __str__(self) -> str:
        return shorten(" ".join(self.raised().split()), LONGEST_LINE)

    def raised(self) -> str:
        """What is wrong, as it was raised. (torch gives an error's class with a `message` other arguments.)"""
        return super().__str__()


class ElsewhereError(UserError):
    """What has ended another process of the same work, and so ends this one; the other says so itself."""


class FieldError(UserError):
    """A field of the recipe that does not fit, e.g. `method.tokens`, apart from what is wrong with it: a combination
    raises it again as `method.before_llm.tokens`."""

    def __init__(self, field: str, problem: str, section: str = "method"):
        super().__init__(field, problem, section)
        self.field, self.problem, self.section = field, problem, section

    def raised(self) -> str:
        """The field with its section, and what is wrong with it."""
        return f"{self.section}.{self.field}: {self.problem}"


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(sorted(words))}"


@contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file becomes one UserError that names the file, why, and the remedy.

    The one place where all errors are caught, and for calls of libraries alone: what they raise over wrong input has
    dozens of classes, most of them not public (safetensors and tokenizers raise Rust's, pyarrow its own, transformers
    whatever its code runs into). As `naming` besides.
    """
    try:
        with naming(path):
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {remedy}") from error


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A UserError that does not name the file or field gets its name in front."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


def reason(error: BaseException) -> str:
    """What an error says, on one line of bounded length; its class where it says nothing, or nothing but a key."""
    said = " ".join(str(error).split())
    if isinstance(error, (KeyError, IndexError, AttributeError)) or not said:
        said = f"{type(error).__name__} {said}".strip()
    return shorten(said, LONGEST_REASON)


def shorten(text: str, length: int) -> str:
    """A text of at most `length` characters, cut in the middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def one_line(text: object, length: int = LONGEST_REASON) -> str:
    """What somebody wrote, for a message: without line breaks and what else cannot be printed, of bounded length."""
    line = shorten(" ".join(str(text)[: 2 * LONGEST_REASON].split()), length)
    return "".join(character if character.isprintable() else "?" for character in line)
