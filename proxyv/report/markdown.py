"""Markdown tables, and their places in documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from proxyv.errors import UserError

ABSENT = "–"  # what a cell shows where there is no figure


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    """A table's lines; the first `text_columns` columns are aligned left, all others, which hold figures, right."""
    rule = [*["---"] * text_columns, *["---:"] * (len(head) - text_columns)]
    return [_line(cells) for cells in (head, rule, *rows)]


def with_notes(lines: Sequence[str], notes: Sequence[str]) -> str:
    """A table's lines with a list of notes below."""
    return "\n".join([*lines, "", *[f"- {note}" for note in notes]]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def replace_table(document: str | Path, name: str, table: str) -> Path:
    """Replace the text of a document between `<!-- table: NAME … -->` and `<!-- end of table -->`.

    Raises UserError where the document has no such place.
    """
    document = Path(document)
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    place = re.compile(rf"(<!-- table: {re.escape(name)} .*?-->\n).*?(<!-- end of table -->)", re.DOTALL)
    if not place.search(text):
        raise UserError(f"{document}: has no place '<!-- table: {name} … -->' … '<!-- end of table -->'; add one")
    document.write_text(place.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text), encoding="utf-8")
    return document
