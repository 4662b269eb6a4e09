"""However a command ends before its time, it says so in one line and with its own exit code."""

import errno
import os
import shlex
import signal
from pathlib import Path

import pytest

from proxyv.cli import main
from proxyv.cli.commands import COMMANDS, command_name
from proxyv.errors import UserError

ENDINGS = {
    "Ctrl-C in a library": (lambda: fail_when_interrupted(), 130, "interrupted"),
    "Ctrl-C": (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "interrupted"),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), 75, "ended by SIGTERM"),
    "SIGUSR1": (lambda: os.kill(os.getpid(), signal.SIGUSR1), 75, "ended by SIGUSR1"),
    "full disk": (lambda: Path("/dev/full").write_text("x"), 2, "No space left on device"),
}


def fail_when_interrupted():
    """As OmegaConf does, whose cleaning up fails in an object that is half made."""
    try:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            None.flags  # noqa: B018
    except AttributeError as error:
        raise UserError("recipe.yaml: not valid YAML") from error


@pytest.fixture(autouse=True)
def in_the_foreground():
    """What a shell starts in the background ignores Ctrl-C; here it arrives."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_command_ends_in_one_line(monkeypatch, capsys, ending):
    happens, code, message = ENDINGS[ending]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    for command in COMMANDS:
        monkeypatch.setattr(command, "run", lambda args: happens())
        with pytest.raises(SystemExit) as ended:
            main([command_name(command), *shlex.split(command.EXAMPLE)])
        said = capsys.readouterr().err
        assert ended.value.code == code, command_name(command)
        assert said.startswith(f"proxyv {command_name(command)}: ") and message in said and said.count("\n") == 1, said
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


def test_an_error_that_is_no_full_disk_stays_what_it_is(monkeypatch):
    command = COMMANDS[0]

    def fail(args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(command, "run", fail)
    with pytest.raises(OSError, match="Input/output"):
        main([command_name(command), *shlex.split(command.EXAMPLE)])
