"""Tables and plots, from result files only."""

from __future__ import annotations

import argparse

from proxyv.cli.options import add_into

EXAMPLE = "runs/tiny-full runs/tiny-proxyv-l2 --output report"
PRINTS_FIGURES = False
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The runs, and where their table goes."""
    parser.add_argument("paths", nargs="+", help="run folders or result files")
    parser.add_argument("--output", default="report", help="folder for tables and plots")
    add_into(parser, "instead: update the table of that name in a document")


def run(args: argparse.Namespace) -> None:
    """Write the files, and print their paths."""
    from proxyv.report.make import make_report, write_into

    if args.into is not None:
        document, name = args.into
        print(write_into(document, name, args.paths))
        return
    print(*make_report(args.paths, args.output), sep="\n")
