"""One process at a time: a lock file that names its holder and outlives no process of this machine."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from proxyv.errors import UserError

LOCK = ".lock"  # in the folder that one process works in

_held: set[Path] = set()  # by this process, which the kernel would let lock a file twice


@contextmanager
def only_process(lock: Path) -> Iterator[None]:
    """Hold the lock file while the block runs; its folder is made where it is missing.

    The kernel drops a lock with its process, however that ends, so what a killed one leaves behind is taken over. A
    file that another machine wrote proves nothing about its process and is not touched. (A process that forks keeps
    the lock for itself: locks of this kind are not inherited, so a data loader's orphans hold none.)

    Raises UserError where another process holds it, or one of another machine may.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    path = lock.resolve()
    if path in _held:
        raise UserError(f"{lock.parent}: this process is at work there already; wait until that is done")
    file = _take(path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)  # while it is held: who opens the path from now on makes a file of their own
        file.close()


def _take(path: Path) -> IO[str]:
    """The lock file, locked and with this process's name in it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"{path}: cannot be locked ({error.strerror}); use a disk with file locks") from error
            raise UserError(f"{path.parent}: {holder} is at work there; wait for it or end it") from None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder has just finished and removed it
    holder, host = _holder(file), socket.gethostname()
    if holder and not holder.endswith(f" on {host}"):
        file.close()
        raise UserError(
            f"{path.parent}: {holder} is at work there, or was when it was cut off; if it is gone, delete {path}"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {host}")
    file.flush()
    return file


def _holder(file: IO[str]) -> str:
    """What a lock file says of its holder, in words; empty where nobody has written into it."""
    file.seek(0)
    return file.read(1000).strip()
