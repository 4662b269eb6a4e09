"""One process at a time in a folder; what a killed one leaves behind stops nobody."""

import multiprocessing
import os
import signal
import socket

import pytest

from proxyv.errors import UserError
from proxyv.locks import LOCK, only_process


def hold(lock, writer):
    with only_process(lock):
        os.write(writer, b".")
        signal.pause()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of the folder `run`."""
    reader, writer = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "run" / LOCK, writer))
    process.start()
    os.read(reader, 1)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path, other):
    lock = tmp_path / "run" / LOCK
    refused = f"run: process {other.pid} on {socket.gethostname()} is at work there; wait for it or end it$"
    with pytest.raises(UserError, match=refused), only_process(lock):
        pass
    assert lock.is_file()


def test_a_killed_holder_is_followed_at_once(tmp_path, other):
    lock = tmp_path / "run" / LOCK
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert f"process {other.pid}" in lock.read_text()
    with only_process(lock):
        assert f"process {os.getpid()}" in lock.read_text()
    assert not lock.exists()


def test_another_machines_lock_is_left_alone_with_the_remedy(tmp_path):
    lock = tmp_path / LOCK
    lock.write_text("process 7 on elsewhere")
    refused = f"process 7 on elsewhere is at work there.*if it is gone, delete {lock}$"
    with pytest.raises(UserError, match=refused), only_process(lock):
        pass
    assert lock.read_text() == "process 7 on elsewhere"


def test_a_lock_without_a_name_in_it_and_the_lock_of_an_error_are_no_hindrance(tmp_path):
    lock = tmp_path / LOCK
    lock.write_text("")  # killed between making the file and writing into it
    with pytest.raises(KeyError), only_process(lock):
        raise KeyError
    with only_process(lock), pytest.raises(UserError, match="this process is at work there"), only_process(lock):
        pass
    assert not lock.exists()


def test_children_do_not_keep_a_killed_parents_lock(tmp_path):
    """As the workers of a data loader would."""
    lock, context = tmp_path / LOCK, multiprocessing.get_context("fork")
    reader, writer = os.pipe()

    def parent():
        with only_process(lock):
            child = os.fork()
            if child == 0:
                signal.pause()
            os.write(writer, child.to_bytes(4, "little"))
            signal.pause()

    process = context.Process(target=parent)
    process.start()
    orphan = int.from_bytes(os.read(reader, 4), "little")
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with only_process(lock):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)
