"""Benchmarks and training sets: list where they come from, fetch them from the hub, check what lies on disk.

A name is that of a source (configs/sources), of a benchmark or of a suite; without one, all are listed.
"""

from __future__ import annotations

import argparse

from proxyv.cli.options import add_into
from proxyv.cli.printing import aligned, show
from proxyv.errors import UserError
from proxyv.sources.source import Source

EXAMPLE = "fetch docvqa chartqa --data_root data"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to do, with which data, where."""
    parser.add_argument("action", choices=["list", "fetch", "check"], help="what to do")
    parser.add_argument("names", nargs="*", default=[], help="sources, benchmarks or suites (list: default all)")
    parser.add_argument("--data_root", default="data", help="folder of all data (default: data)")
    add_into(parser, "list: update the table of that name in a document instead")


def run(args: argparse.Namespace) -> None:
    """List, fetch or check; a problem that `check` finds is an error."""
    from proxyv.sources.names import find_sources

    if args.action != "list" and not args.names:
        raise UserError(f"names: say what to {args.action}; `proxyv data list` shows what there is")
    if args.action != "list" and args.into is not None:
        raise UserError(f"--into: goes with list, not with {args.action}")
    sources = find_sources(args.names)
    {"list": _list, "fetch": _fetch, "check": _check}[args.action](args, sources)


def _list(args: argparse.Namespace, sources: list[Source]) -> None:
    from proxyv.report.markdown import replace_table
    from proxyv.sources.describe import LEGEND, describe, facts_lines, table_rows, to_markdown

    if args.into is not None:
        document, name = args.into
        print(replace_table(document, name, to_markdown(sources)))
        return
    figures = {source.name: describe(source, args.data_root) for source in sources}
    facts = facts_lines(sources, args.data_root) if args.names else aligned(table_rows(sources, args.data_root))
    show(figures, args.json, facts if args.names else [*facts, LEGEND])


def _fetch(args: argparse.Namespace, sources: list[Source]) -> None:
    from proxyv.sources.fetch import fetch

    figures, lines = {}, []
    for source in sources:
        fetched = fetch(source, args.data_root)
        figures[source.name] = fetched
        size = sum(file["size"] for file in fetched["files"].values())
        place = f"{args.data_root}/{source.folder}"
        lines.append(f"{source.name}: {len(fetched['files']):,} files, {size / 1e9:.3f} GB in {place}")
        lines += [f"  by hand: {one.what}, from {one.origin}, to {place}/{one.folder}" for one in source.by_hand]
    show(figures, args.json, lines)


def _check(args: argparse.Namespace, sources: list[Source]) -> None:
    from proxyv.sources.check import check_source

    reports = [check_source(source, args.data_root) for source in sources]
    show(
        {report.source: report.as_dict() for report in reports},
        args.json,
        [line for report in reports for line in report.lines()],
    )
    problems = sum(len(report.problems) for report in reports)
    if problems:
        raise UserError(f"{problems} problem(s) in the data; they are listed above")
