"""What is known of sources, for people: a table, and all facts of one with where they were read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxyv.report.markdown import table_lines, with_notes
from proxyv.schema import as_plain
from proxyv.sources.fetched import read_fetched
from proxyv.sources.source import Source

UNKNOWN, UNVERIFIED = "?", "*"
HEAD = ("name", "what", "licence", "GB", "rows", "folder", "on disk")
LEGEND = f"{UNKNOWN}: not known; the hub says it when it is fetched. {UNVERIFIED}: unverified, no document states it."


def describe(source: Source, data_root: str | Path) -> dict[str, Any]:
    """A source's fields, with its unverified facts and what was fetched, ready for JSON."""
    fetched = read_fetched(source, data_root)
    return {**as_plain(source), "unverified": source.unverified, "fetched": fetched}


def table_rows(sources: Sequence[Source], data_root: str | Path) -> list[tuple[str, ...]]:
    """The rows of a table of sources, its head first; LEGEND says what the marks mean."""
    rows = [
        (
            source.name,
            source.title,
            _mark(source, "licence", source.licence),
            _mark(source, "gigabytes", gigabytes_in_words(source)),
            _mark(source, "rows", rows_in_words(source)),
            source.folder,
            state(source, data_root),
        )
        for source in sources
    ]
    return [HEAD, *rows]


def to_markdown(sources: Sequence[Source]) -> str:
    """A table of sources for a document, and what its marks mean."""
    head = ("source", "what", "on the hub", "commit", "licence", "GB", "rows", "folder")
    rows = [
        [
            source.name,
            source.title,
            f"[{source.hub}](https://huggingface.co/datasets/{source.hub})",
            source.revision[:7] if source.revision else "unpinned",
            _mark(source, "licence", source.licence),
            _mark(source, "gigabytes", gigabytes_in_words(source)),
            _mark(source, "rows", rows_in_words(source)),
            source.folder,
        ]
        for source in sources
    ]
    notes = [
        LEGEND,
        "The document that states a fact, and the columns: `proxyv data list SOURCE`.",
        *[f"{one.name}, by hand: {hand.what}, from {hand.origin}." for one in sources for hand in one.by_hand],
    ]
    return with_notes(table_lines(head, rows, text_columns=5), notes)


def facts_lines(sources: Sequence[Source], data_root: str | Path) -> list[str]:
    """All facts of each source, a line each, and the document that states it."""
    lines = []
    for source in sources:
        facts = {
            "hub": source.hub,
            "revision": source.revision or "unpinned: the newest, and its commit is recorded",
            "licence": source.licence,
            "rows": rows_in_words(source),
            "gigabytes": gigabytes_in_words(source),
            "columns": ", ".join(f"{name} ({kind})" for name, kind in source.columns.items()),
            "checksums": "pinned" if source.checksums else "unpinned: the hub's are compared, and recorded",
            "files": ", ".join(source.patterns),
            "folder": str(Path(data_root) / source.folder),
            "on disk": state(source, data_root),
        }
        lines.append(f"{source.name}: {source.title}")
        for fact, value in facts.items():
            document = source.document(fact)
            where = f"  [{document}]" if document else "  [unverified]" if fact in source.unverified else ""
            lines.append(f"  {fact}: {value or 'not known'}{where}")
        lines += [f"  by hand: {one.what}, from {one.origin}, to {one.folder}" for one in source.by_hand]
    return lines


def gigabytes_in_words(source: Source) -> str | None:
    """What is to be downloaded; "> x" where a part is unknown, None where all is."""
    known = [files.gigabytes for files in source.files if files.gigabytes is not None]
    if not known:
        return None
    return f"{'' if source.gigabytes is not None else '> '}{sum(known):.3g}"


def rows_in_words(source: Source) -> str | None:
    """Rows of all files, with thousands separators."""
    return None if source.rows is None else f"{source.rows:,}"


def state(source: Source, data_root: str | Path) -> str:
    """Whether it was fetched: "fetched", "half-way", or "–"."""
    fetched = read_fetched(source, data_root)
    return "–" if fetched is None else "fetched" if fetched["complete"] else "half-way"


def _mark(source: Source, fact: str, value: str | None) -> str:
    return UNKNOWN if value is None else f"{value}{UNVERIFIED if fact in source.unverified else ''}"
