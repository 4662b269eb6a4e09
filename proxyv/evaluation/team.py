"""The processes of one evaluation, as torchrun starts them; a single one without a launcher.

They meet in the launcher's key-value store and ask it again and again, instead of waiting in a collective call: one may
work for hours while another waits, on any device, and none needs a process group. What ends one of them ends all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar, Token
from datetime import timedelta
from functools import cache
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

import torch

from proxyv import processes
from proxyv.errors import ElsewhereError, UserError, reason
from proxyv.signals import Stopped

Told = TypeVar("Told")
PAUSE = 0.1  # seconds between two questions to the store
LAST_WORDS = 10.0  # seconds that the main process, which may keep the store, waits for the others at the end
_JOINING = timedelta(minutes=10)

_open: ContextVar[Team | None] = ContextVar("team", default=None)
_numbers = count()


def together() -> AbstractContextManager[Team]:
    """The team of this process for a `with` block: the one that is open, or a new one of all processes.

    Raises UserError where a launcher's variables are not whole, and where not all processes come.
    """
    if team := _open.get():
        return nullcontext(team)
    size = processes.world_size()
    if size == 1:
        return Team()
    local = processes.local_rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())  # what "cuda" means in this process from now on
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Team(
        processes.rank(), size, torch.distributed.PrefixStore(f"proxyv/{attempt}/{next(_numbers)}", _launcher_store())
    )


@cache
def _launcher_store() -> torch.distributed.Store:
    """Torchrun's store, or one that the main process keeps where another launcher has set torchrun's variables. Raises
    UserError where not all processes come."""
    store: torch.distributed.Store
    try:
        store, _, _ = next(torch.distributed.rendezvous("env://", timeout=_JOINING))
    except torch.distributed.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"MASTER_ADDR: the processes do not meet at {place} ({reason(error)}); start all of them"
        ) from error
    return store


class Team:
    """All processes that do one piece of work, each of which holds such an object and enters it.

    Every process must call `from_main`, `main_first`, `gather` and `counter` in the same order. Where one leaves the
    block by an error or a signal, the others leave it too, at their next call at the latest: by ElsewhereError, Stopped
    or KeyboardInterrupt. Of several that fail alike, one keeps its error and the others get ElsewhereError.

    Args:
        rank: this process's number, from 0, which is the main process.
        size: number of processes.
        store: what they share; None for a single process.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: torch.distributed.Store | None = None):
        self.rank, self.size = rank, size
        self._store: Any = store
        self._calls = count()
        self._token: Token[Team | None] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reads and writes for all."""
        return self.rank == 0

    def __enter__(self) -> Team:
        self._token = _open.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _open.reset(self._token)
        if self._store is None:
            return
        asked = isinstance(error, (Stopped, KeyboardInterrupt))
        with suppress(torch.distributed.DistError):  # the store may have gone with the process that kept it
            first = self._tell(error) if error is not None else None
            if not asked:
                self._leave()
            # Torchrun sends a signal to all when one has failed; and all fail alike over an input of all.
            if first and (asked or first["message"] == str(error)):
                self._raise(first)

    def from_main(self, work: Callable[[], Told]) -> Told:
        """What `work` returns in the main process, in all of them; it must be ready for JSON."""
        if self._store is None:
            return work()
        key = self._next_key()
        if not self.is_main:
            value: Told = json.loads(self._wait(key))
            return value
        value = work()
        with _asking():
            self._store.set(key, json.dumps(value))
        return value

    def main_first(self, work: Callable[[], Told]) -> Told:
        """Do `work` in the main process and then in the others: they find its caches, and need not fail as it did."""
        made = [work()] if self.is_main else []
        self.from_main(lambda: None)
        return made[0] if made else work()

    def gather(self, value: Told) -> list[Told]:
        """Every process's value, by rank, in the main process, and nothing in the others; ready for JSON."""
        if self._store is None:
            return [value]
        key = self._next_key()
        if self.is_main:
            return [value, *(json.loads(self._wait(f"{key}/{rank}")) for rank in range(1, self.size))]
        with _asking():
            self._store.set(f"{key}/{self.rank}", json.dumps(value))
        return []

    def counter(self) -> Callable[[int], int]:
        """A sum that all processes share, from 0: a function that adds to it and returns what it is then."""
        key = self._next_key()
        if self._store is None:
            return _Sum()
        return lambda more: self._add(key, more)

    def look(self) -> None:
        """Raise what has ended another process: ElsewhereError, Stopped or KeyboardInterrupt."""
        if self._store is None:
            return
        with _asking():
            if not self._store.check(["ended"]):
                return
            ended = json.loads(self._store.get("ended"))
        self._raise(ended)

    def _raise(self, ended: dict[str, Any]) -> None:
        """Raise what has ended another process; nothing where it was this one."""
        if ended["rank"] == self.rank:
            return
        message = f"process {ended['rank']}: {ended['message']}"
        if ended["kind"] == "Stopped":
            raise Stopped(message)
        if ended["kind"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        raise ElsewhereError(message)

    def _next_key(self) -> str:
        return str(next(self._calls))

    def _add(self, key: str, more: int) -> int:
        with _asking():
            return int(self._store.add(key, more))

    def _wait(self, key: str) -> bytes:
        """The value of a key once it is there."""
        while True:
            self.look()
            with _asking():
                if self._store.check([key]):
                    found: bytes = self._store.get(key)
                    return found
            time.sleep(PAUSE)

    def _tell(self, error: BaseException) -> dict[str, Any]:
        """Say why this process ends, unless another one has come first; returns what was said first."""
        kind = type(error).__name__ if isinstance(error, (Stopped, KeyboardInterrupt)) else "error"
        said = json.dumps({"rank": self.rank, "kind": kind, "message": str(error)})
        first: dict[str, Any] = json.loads(self._store.compare_set("ended", "", said))
        return first

    def _leave(self) -> None:
        """The end of the block; the main process waits a little for the others, since it may keep the store."""
        left, deadline = self._store.add("left", 1), time.monotonic() + LAST_WORDS
        while self.is_main and left < self.size and time.monotonic() < deadline:
            time.sleep(PAUSE)
            left = self._store.add("left", 0)


class _Sum:
    """A sum of one process."""

    value = 0

    def __call__(self, more: int) -> int:
        self.value += more
        return self.value


@contextmanager
def _asking() -> Iterator[None]:
    """A store that does not answer becomes a UserError: it has gone with the process that kept it."""
    try:
        yield
    except torch.distributed.DistError as error:
        raise UserError(
            "process 0: has ended, and with it what the processes share; see what it said, and go on with --resume"
        ) from error
