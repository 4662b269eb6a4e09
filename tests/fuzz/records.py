"""Training records in JSON and parquet: wrong values, types, roles, marks and bytes, read as a stage reads them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from proxyv.config import DataSpec
from proxyv.data import check_data
from proxyv.errors import UserError
from tests.fuzz.nasty import Change, Damage, changes, damages, to_json
from tests.fuzz.outcomes import Category, WrongError
from tests.small_runs import record, record_recipe, save_image

ENDINGS = (".json", ".parquet")


def records() -> list[dict[str, Any]]:
    """Three records as they should be: with an image, without, with one again."""
    second = record("r2", "which <image>", image="page.png")
    return [record("r0", "<image>\nwhat", image="page.png"), record("r1", "what"), second]


@dataclass(frozen=True)
class Broken:
    """A file's format, and what was done to its records or its bytes."""

    ending: str
    change: Change | Damage


def attempt(broken: Broken, folder: Path) -> None:
    """Check the data as a stage would read it: every record usable, or named in one line."""
    recipe = record_recipe(folder, records())
    save_image(folder, "page.png")
    recipe.data["records"] = DataSpec("llava", f"records{broken.ending}", "images")
    good, change, file = records(), broken.change, folder / f"records{broken.ending}"
    if broken.ending == ".parquet":
        picture = {"bytes": (folder / "images" / "page.png").read_bytes(), "path": None}
        good = [{**one, "image": picture if "image" in one else None} for one in good]
    found = good if isinstance(change, Damage) else change.of(good)
    if broken.ending == ".parquet":
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), file)
        except Exception:  # of any class: nothing that a table can hold
            return
    else:
        file.write_text(to_json(found), "utf-8", "surrogatepass")
    if isinstance(change, Damage):
        file.write_bytes(change.of(file.read_bytes()))
    with contextlib.redirect_stderr(io.StringIO()):
        report = check_data(recipe)
    for problem in report.problems:
        if "\n" in problem or not problem.strip():
            raise WrongError(f"not one line: {problem!r}")
    if report.problems:
        raise UserError(report.problems[0])
    (source,) = report.sources
    assert source.usable + sum(source.counts.values()) >= source.samples, "samples that are neither used nor counted"
    assert source.supervised > 0 and source.longest > 0


def broken_records() -> st.SearchStrategy[Broken]:
    """Changes of records and of bytes, in both formats."""
    return st.builds(Broken, st.sampled_from(ENDINGS), changes(records()) | changes(records()) | damages)


RECORDS = Category("records", st.deferred(broken_records), attempt)
