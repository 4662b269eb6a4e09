"""A whole set of pages on disk: training files in the LLaVA layout, held-out pages as benchmarks.

images/train/*.png     the training pages
captions.json          LLaVA records, transcript as caption
instruct.json          LLaVA records, several question-answer turns
text.json              LLaVA records without image: the grid as text, then several turns
glyphs.json            the character of every cell
benchmarks/*.parquet   test pages in the real benchmarks' columns
meta.json              arguments, counts, alphabet, words
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxyv.errors import UserError
from proxyv.pages.benchmark_files import BENCHMARK_FILES
from proxyv.pages.difficulty import Difficulty, resolve_difficulty
from proxyv.pages.generate import KINDS, make_page, stream
from proxyv.pages.page import PageSpec
from proxyv.pages.records import (
    PageRecord,
    caption_record,
    glyph_record,
    image_record,
    pick_turns,
    text_record,
)
from proxyv.pages.vocabulary import ALPHABET, QUESTION_WORDS, TEXT_CHARACTERS

# Grows with every change that alters a page or a file, so that an old folder is never reused.
GENERATOR_VERSION = 2
META = "meta.json"
BAR_DELAY_SECONDS = 2.0

Meta = dict[str, Any]


def write_pages(
    root: str | Path,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    train_pages: int,
    test_pages: int,
    rows: int = 8,
    columns: int = 8,
    cell: int = 14,
    difficulty: Difficulty | str = "easy",
    seed: int = 0,
    turns_per_page: int = 4,
) -> Meta:
    """Write training and test pages to the folder `root`, or reuse it; returns what meta.json holds.

    train_pages: pages of each kind, `columns * cell` by `rows * cell` pixels, in images/train.
    test_pages: rows of each benchmark of these kinds, one question on one page each.
    difficulty: a name of `DIFFICULTIES`, or the knobs themselves.
    turns_per_page: at most so many turns in a record of instruct.json and text.json.

    The folder appears at once when everything is written; a run that is stopped leaves no half-filled `root`.
    If `root` holds the same pages already, nothing is written. Raises `UserError` if it was made from other
    arguments or holds anything else, and for arguments out of range.
    """
    spec = PageSpec(rows, columns, cell, resolve_difficulty(difficulty))
    arguments = {
        "generator_version": GENERATOR_VERSION,
        "kinds": list(kinds),
        "train_pages": train_pages,
        "test_pages": test_pages,
        "rows": rows,
        "columns": columns,
        "cell": cell,
        "difficulty": _as_json(asdict(spec.difficulty)),
        "seed": seed,
        "turns_per_page": turns_per_page,
    }
    _check_arguments(arguments)
    root = Path(root).resolve()
    found = _existing(root, arguments)
    return found if found is not None else _write_all(root, spec, arguments)


def _write_all(root: Path, spec: PageSpec, arguments: Meta) -> Meta:
    """Write everything beside `root`, then rename."""
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        counts = _write_training(partial, spec, arguments) | _write_benchmarks(partial, spec, arguments)
        meta = _meta(arguments, counts)
        _write_json(partial / META, meta, indent=2)
        return _put_in_place(partial, root, meta)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _meta(arguments: Meta, counts: dict[str, int]) -> Meta:
    return {
        "arguments": arguments,
        "counts": counts,
        "alphabet": ALPHABET,
        "question_words": list(QUESTION_WORDS),
        "text_characters": TEXT_CHARACTERS,
    }


def _as_json(value: Any) -> Any:
    """The value as it reads back from a JSON file, tuples as lists, so that both compare equal."""
    return json.loads(json.dumps(value))


def _check_arguments(arguments: Meta) -> None:
    """Raise UserError for the first argument that is out of range."""
    kinds = arguments["kinds"]
    if not kinds:
        raise UserError(f"kinds: no page kind is named; choose from {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"kinds: unknown page kind {kind!r}; choose from {', '.join(KINDS)}")
    if len(set(kinds)) < len(kinds):
        raise UserError(f"kinds: {', '.join(kinds)} names a kind twice; name each once")
    for name, least in (("train_pages", 0), ("test_pages", 0), ("seed", 0), ("turns_per_page", 1)):
        if arguments[name] < least:
            raise UserError(f"{name}: {arguments[name]} is too small; use {least} or more")


def _existing(root: Path, arguments: Meta) -> Meta | None:
    """The contents of meta.json if `root` holds pages from these arguments, None if it is absent or empty.

    Raises UserError if it holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    remedy = "delete the folder or name another one"
    if not (root / META).is_file():
        raise UserError(f"{root} exists but holds no synthetic pages ({META} is missing); {remedy}")
    meta: Meta = json.loads((root / META).read_text())
    for name, wanted in arguments.items():
        found = meta["arguments"].get(name)
        if found != wanted:
            raise UserError(f"{root} holds pages with {name} {found}, not {wanted}; {remedy}")
    return meta


def _put_in_place(partial: Path, root: Path, meta: Meta) -> Meta:
    """Rename `partial` to `root`, unless another process has put the same pages there in the meantime."""
    try:
        partial.replace(root)
    except OSError:
        found = _existing(root, meta["arguments"])
        if found is None:
            raise
        return found
    return meta


def _write_training(root: Path, spec: PageSpec, arguments: Meta) -> dict[str, int]:
    """Images and records, the kinds in turn, so that any first part of a file holds all kinds alike."""
    (root / "images" / "train").mkdir(parents=True)
    kinds, pages, seed = arguments["kinds"], arguments["train_pages"], arguments["seed"]
    most = arguments["turns_per_page"]
    files: dict[str, list[PageRecord]] = {"captions": [], "instruct": [], "text": [], "glyphs": []}
    order = [(kind, index) for index in range(pages) for kind in kinds]
    for kind, index in tqdm(order, desc="training pages", unit="page", delay=BAR_DELAY_SECONDS):
        page = make_page(kind, index, spec, seed=seed)
        rng = stream(seed, "train", kind, index, "turns")
        name = f"{kind}_{index:06d}"
        image = f"train/{name}.png"
        # Light compression: twice as fast, files a little larger.
        page.image.save(root / "images" / image, compress_level=1)
        files["captions"].append(caption_record(name, image, page))
        files["instruct"].append(image_record(name, image, page, pick_turns(page, most, rng)))
        turns = pick_turns(page, most, rng, transcribe=True)
        files["text"].append(text_record(name, page, turns, gaps=index % 2 == 1))
        files["glyphs"].append(glyph_record(name, image, page))
    for file, records in files.items():
        _write_json(root / f"{file}.json", records)
    return {file: len(records) for file, records in files.items()}


def _write_benchmarks(root: Path, spec: PageSpec, arguments: Meta) -> dict[str, int]:
    if not arguments["test_pages"]:
        return {}
    folder = root / "benchmarks"
    folder.mkdir()
    chosen = {name: bench for name, bench in BENCHMARK_FILES.items() if bench.kind in arguments["kinds"]}
    counts = {}
    for name, bench in tqdm(chosen.items(), desc="benchmarks", unit="file", delay=BAR_DELAY_SECONDS):
        path = folder / f"{name}.parquet"
        counts[name] = bench.write(path, spec, seed=arguments["seed"], pages=arguments["test_pages"])
    return counts


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent))
