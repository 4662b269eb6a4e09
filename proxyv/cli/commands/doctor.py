"""Say what is installed, on which machine, and whether the versions go together."""

from __future__ import annotations

import argparse

from proxyv.cli.printing import show
from proxyv.errors import UserError

EXAMPLE = "--json"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """None but --json."""


def run(args: argparse.Namespace) -> None:
    """Print the diagnosis, and fail where something must be fixed."""
    from proxyv.cli.doctor import diagnose

    report = diagnose()
    show(report.as_dict(), args.json, report.lines())
    if report.faults:
        raise UserError("; ".join(report.faults))
