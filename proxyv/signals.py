"""Signals by which a scheduler announces the end of a job: at once in most commands, after a checkpoint in training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command will go on. No shell, launcher or signal uses it.
REQUEUE = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """Ended by a signal with nothing lost; where nobody catches it the process exits with REQUEUE."""

    def __init__(self, message: str):
        super().__init__(message)
        self.message, self.code = message, REQUEUE

    def __str__(self) -> str:
        return self.message


class Request:
    """The signal that has come, if one has."""

    name: str | None = None  # "SIGTERM"

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.name = signal.Signals(number).name


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Raise Stopped in the main thread when a signal of SIGNALS comes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"ended by {signal.Signals(number).name}")

    with _handled_by(stop):
        yield


@contextmanager
def stop_on_request() -> Iterator[Request]:
    """Only note a signal of SIGNALS, so that the block may finish what it is at."""
    request = Request()
    with _handled_by(request.note):
        yield request


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Python lets only the main thread handle signals; in another one they keep their effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
