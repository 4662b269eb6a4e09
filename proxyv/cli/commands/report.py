"""Tables and plots, from result files only.

Beside the table of all runs (Markdown, CSV, LaTeX) it writes those tables of the paper that the runs have benchmarks
of, with the published values beside ours. Scores of different prompts, splits or versions get columns of their own, and
scores that contradict their answers are refused.
"""

from __future__ import annotations

import argparse

from proxyv.cli.options import add_into, call
from proxyv.errors import UserError
from proxyv.report.paper_tables import PAPER_TABLES

EXAMPLE = "runs/tiny-full runs/tiny-proxyv-l2 --output report"
PRINTS_FIGURES = False
OVERRIDABLE = False
TABLES = tuple(table.name for table in PAPER_TABLES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The runs, and where their table goes."""
    parser.add_argument("paths", nargs="+", help="run folders or result files")
    parser.add_argument("--output", default="report", help="folder for tables and plots")
    add_into(parser, "instead: update the table of that name in a document")
    parser.add_argument("--paper_table", choices=TABLES, default=None, help="with --into: one of the paper's tables")


def run(args: argparse.Namespace) -> None:
    """Write the files, and print their paths."""
    from proxyv.report.make import make_report, write_into

    if args.into is None and args.paper_table is not None:
        raise UserError("--paper_table: goes with --into; without it all tables are written")
    if args.into is not None:
        document, name = args.into
        print(call(write_into, args, document, name, args.paths))
        return
    print(*make_report(args.paths, args.output), sep="\n")
