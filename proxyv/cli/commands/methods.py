"""List the methods: what each does, its paper, where it acts, whether it is trained, and what it needs.

Methods in folders that PROXYV_METHODS names are listed too.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from proxyv.cli.options import add_into
from proxyv.cli.printing import aligned, show
from proxyv.report.markdown import ABSENT, replace_table, table_lines

EXAMPLE = "--json"
PRINTS_FIGURES = True
OVERRIDABLE = False

HEAD = ("method", "acts", "training", "needs", "paper", "what it does")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the table goes."""
    add_into(parser, "instead: update the table of that name in a document at the root of the checkout")


def run(args: argparse.Namespace) -> None:
    """Print the catalogue, or put it into the document and print the document's path."""
    from proxyv.model.catalogue import catalogue
    from proxyv.model.method import NEEDS

    entries = [asdict(entry) for entry in catalogue()]
    if args.into is not None:
        document, name = args.into
        print(replace_table(document, name, _markdown(entries)))
        return
    rows = [_cells(entry, entry["name"], entry["link"] or ABSENT) for entry in entries]
    needs = [f"needs {name}: {text}" for name, text in NEEDS.items()]
    show({"methods": entries, "needs": NEEDS}, args.json, [*aligned([list(HEAD), *rows]), "", *needs])


def _markdown(entries: list[dict[str, Any]]) -> str:
    """Rows whose names link to the methods' files, and whose papers to arXiv."""
    rows = []
    for entry in entries:
        paper = ABSENT if entry["arxiv"] is None else f"[{entry['arxiv']}]({entry['link']})"
        rows.append(_cells(entry, f"[{entry['name']}]({entry['file']})", paper))
    return "\n".join([*table_lines(HEAD, rows, text_columns=len(HEAD)), ""])


def _cells(entry: dict[str, Any], name: str, paper: str) -> list[str]:
    """A row of the table, in the order of `HEAD`."""
    line = entry["one_line"] + (" (approximate)" if entry["approximate"] else "")
    training = "trained" if entry["trained"] else "training-free"
    return [name, entry["place"], training, ", ".join(entry["needs"]) or ABSENT, paper, line]
