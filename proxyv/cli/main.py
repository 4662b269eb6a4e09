"""Train, evaluate and measure vision-language models that spend less computation on vision tokens.

Exit codes: 0 on success, 2 on wrong input or a full disk with one line on what to fix, 75 after SIGTERM or SIGUSR1
(training keeps a checkpoint first): start it again, 130 after Ctrl-C. Fields of a recipe are overridden by their name:
`proxyv train RECIPE --method.start_layer 16`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from tqdm import tqdm

from proxyv.cli.commands import COMMANDS, Command, command_name
from proxyv.errors import ElsewhereError, UserError, shorten
from proxyv.files import writing
from proxyv.signals import REQUEUE, Stopped, stop_at_once

INTERRUPTED = 130  # as shells report a process that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """A parser whose errors have the form of all others: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        stop(self.prog, f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; never returns where the input is wrong (exit code 2)."""
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help()
        return
    try:
        if rest and not args.overridable:
            raise UserError(f"unknown option '{rest[0]}'; see `proxyv {args.command} --help`")
        _refuse_empty(args)
        args.overrides = parse_overrides(rest)
        with stop_at_once(), writing("output"):
            args.run(args)
    except (Exception, KeyboardInterrupt, Stopped) as error:
        ending = _ending(error)
        if ending is None:
            raise
        if isinstance(error, ElsewhereError):
            raise SystemExit(ending[1]) from None
        stop(f"proxyv {args.command}", *ending)


def _ending(error: BaseException) -> tuple[str, int] | None:
    """The message and exit code of an error; None for one that is a mistake of ours."""
    if isinstance(error, ElsewhereError):  # a signal only follows it
        return str(error), 2
    above: BaseException | None = error
    while above is not None:  # a signal may come while a library is at work, which then fails in its own way
        if isinstance(above, Stopped):
            return str(above), REQUEUE
        if isinstance(above, KeyboardInterrupt):
            return "interrupted", INTERRUPTED
        above = above.__cause__ or above.__context__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{shorten(str(error.filename), 200)}: {error.strerror}; fix the path or its rights", 2
    return (str(error), 2) if isinstance(error, UserError) else None


def stop(prefix: str, message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr and an exit code."""
    tqdm.write(f"{prefix}: {message}", file=sys.stderr)  # not print: a progress bar may be on the current line
    raise SystemExit(code) from None


def make_parser() -> Parser:
    """The parser of `proxyv` with all its commands."""
    parser = Parser(prog="proxyv", description=__doc__, allow_abbrev=False)
    known = parser.add_subparsers(dest="command", metavar="command")
    for command in COMMANDS:
        name, text = command_name(command), " ".join((command.__doc__ or "").split())
        sub = known.add_parser(
            name,
            help=(command.__doc__ or "").split("\n\n")[0],
            description=text,
            epilog=f"example: proxyv {name} {command.EXAMPLE}",
            allow_abbrev=False,
            # An option that is left out is not in the namespace, unless it names a default: see `options.call`.
            argument_default=argparse.SUPPRESS,
        )
        _add_common(sub, command)
    return parser


def _add_common(sub: argparse.ArgumentParser, command: Command) -> None:
    sub.set_defaults(run=command.run, overridable=command.OVERRIDABLE)
    if command.PRINTS_FIGURES:
        sub.add_argument("--json", action="store_true", default=False, help="print figures as JSON")
    command.add_options(sub)


def _refuse_empty(args: argparse.Namespace) -> None:
    """Raise UserError for an empty option or argument, as a shell's unset variable leaves it: it would read as one that
    was left out, or as the working folder. A question may be empty."""
    for name, value in vars(args).items():
        if name != "prompt" and (value == "" or (isinstance(value, list | tuple) and "" in value)):
            raise UserError(f"{name}: is empty; give a value, or leave the option out")


def parse_overrides(rest: Sequence[str]) -> list[str]:
    """["--a.b", "1", "--c=2"] → ["a.b=1", "c=2"]. Raises UserError for a word that is no option or has no value."""
    found, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}'; write overrides as --field.subfield value")
        name = word[2:]
        if "=" not in name:
            if not words or words[0].startswith("--"):
                raise UserError(f"option '{word}' needs a value: {word} VALUE")
            name = f"{name}={words.pop(0)}"
        found.append(name)
    return found
