"""What becomes of one broken input: accepted, refused in one line, or one of the three failures."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from proxyv.cli import main
from proxyv.errors import UserError

ACCEPTED, REFUSED, TRACEBACK, HANG, WRONG = "accepted", "refused", "traceback", "hang", "wrong acceptance"
OUTCOMES = (ACCEPTED, REFUSED, TRACEBACK, HANG, WRONG)
LIMIT = 30.0  # seconds for one case
LONGEST_LINE = 3000  # characters


@dataclass(frozen=True)
class Category:
    """One kind of input.

    cases: strategy of its broken examples.
    attempt: uses one, in an empty folder. UserError: it was refused. AssertionError: it was taken, and wrongly.
    """

    name: str
    cases: st.SearchStrategy[Any]
    attempt: Callable[[Any, Path], None]

    def outcome(self, case: Any) -> tuple[str, str]:
        """One of OUTCOMES, and what there is to say of it."""
        with tempfile.TemporaryDirectory() as folder:
            return _outcome(lambda: self.attempt(case, Path(folder)))


class Hang(BaseException):
    """The time is over. No `except Exception` may swallow it."""


class WrongError(AssertionError):
    """A refusal that is none: more than one line, or one that does not say what it is about."""


def _outcome(attempt: Callable[[], None]) -> tuple[str, str]:
    try:
        with _limited(LIMIT):
            attempt()
    except UserError as error:
        return _refusal(str(error))
    except Hang:
        return HANG, traceback.format_exc()
    except WrongError as error:
        return TRACEBACK, str(error)
    except AssertionError:
        return WRONG, traceback.format_exc()
    except Exception:
        return TRACEBACK, traceback.format_exc()
    return ACCEPTED, ""


def _refusal(message: str) -> tuple[str, str]:
    if "\n" in message or "\r" in message or not message.strip():
        return TRACEBACK, f"not one line: {message!r}"
    if len(message) > LONGEST_LINE:
        return TRACEBACK, f"a line of {len(message)} characters: {message[:200]}"
    return REFUSED, message


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise Hang in the main thread when the time is over."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(*words: str | Path, names: str | Path | None = None) -> str:
    """Run a command in this process; returns what it prints.

    names: what a refusal must name.
    Raises UserError where it ends with exit code 2 and one line.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([os.fspath(word) for word in words])
        except SystemExit as stop:
            if stop.code != 2:
                raise WrongError(f"exit code {stop.code}") from stop
            shown = err.getvalue()
            _, mark, message = shown.rpartition(f"proxyv {words[0]}: ")
            if not mark:
                raise WrongError(f"no line of `proxyv {words[0]}`: {shown[-500:]!r}") from stop
            message = message.removesuffix("\n")
            if names is not None and str(names) not in message:
                raise WrongError(f"does not name {names}: {message}") from stop
            raise UserError(message) from stop
    return out.getvalue()
