"""The commands of `proxyv`, one file each: what `--help` says, its options, and what it runs.

What needs torch or transformers is imported inside `run`, so that `proxyv --help` needs neither.
"""

from __future__ import annotations

import argparse
from typing import Protocol

from proxyv.cli.commands import (
    bench,
    check_data,
    compare,
    convert,
    data,
    doctor,
    eval,
    export,
    generate,
    merge,
    methods,
    mir,
    profile,
    quickstart,
    report,
    rescore,
    show_sample,
    sweep,
    train,
)


class Command(Protocol):
    """What a file of this folder holds. Its docstring is the help: the first paragraph, on one line, in the list of
    commands, and all of it in the command's own help."""

    __name__: str
    __doc__: str | None
    EXAMPLE: str  # what follows `proxyv <command>` in the example of the help
    PRINTS_FIGURES: bool  # whether it has --json
    OVERRIDABLE: bool  # whether fields of a recipe may be overridden by --field.subfield value

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """State the options, all but --json."""

    def run(self, args: argparse.Namespace) -> None:
        """Run the command on what was parsed; `args.overrides` holds fields of a recipe as "a.b=value".

        Raises UserError for wrong input.
        """


# In the order of `proxyv --help`.
COMMANDS: tuple[Command, ...] = (
    quickstart,
    train,
    sweep,
    data,
    check_data,
    show_sample,
    eval,
    rescore,
    compare,
    generate,
    report,
    profile,
    bench,
    mir,
    methods,
    convert,
    merge,
    export,
    doctor,
)


def command_name(command: Command) -> str:
    """The word after `proxyv`: the file's name, with a dash for an underscore."""
    return command.__name__.rpartition(".")[2].replace("_", "-")
