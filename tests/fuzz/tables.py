"""Benchmark files: tables of questions (parquet, JSON, JSON lines) with wrong values, types and bytes, evaluated."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from proxyv.evaluation import evaluate
from proxyv.evaluation.benchmarks import load_benchmark
from tests.fake_vlm import FakeModel, FakeProcessor
from tests.fuzz.nasty import Change, Damage, changes, damages, to_json
from tests.fuzz.outcomes import Category
from tests.tiny import random_image

SUITE = "toys.yaml"
BENCHMARK = {
    "name": "toy",
    "title": "Toy",
    "data": "toy.json",
    "split": "test",
    "columns": {
        "question": "question",
        "image": "image",
        "answers": "answers",
        "id": "id",
        "context": "hint",
        "options": ["options"],
        "keep": ["bbox", "kind"],
    },
    "prompt": {"context": "{context} ", "options": "\n"},
    "metrics": ["anls", "grounding", "vqa_accuracy", "bleu", "letter_alone"],
    "main": "anls",
    "max_new_tokens": 8,
    "group_by": "kind",
}
TERMS = [{"benchmark": "toy", "score": "anls"}]
TOYS = {"name": "toys", "title": "Toys", "benchmarks": ["toy"], "score_name": "mean", "terms": TERMS}
ENDINGS = (".json", ".jsonl", ".parquet")


def rows(image: Any = "page.png") -> list[dict[str, Any]]:
    """Three rows as they should be."""
    return [
        {
            "id": f"q{n}",
            "question": f"what {n}",
            "image": image,
            "answers": [f"A{n}", "B"],
            "bbox": [0, 1, 20, 30],
            "kind": "k",
            "hint": "nan",
            "options": ["x", "y"],
        }
        for n in range(3)
    ]


def write_benchmark(folder: Path, benchmark: Any = None, suite: Any = None) -> Path:
    """A benchmark with its suite and its data; returns the benchmark's file."""
    for name in ("benchmarks", "suites"):
        (folder / name).mkdir(parents=True)
    (folder / "suites" / SUITE).write_text(to_json(TOYS if suite is None else suite), "utf-8", "surrogatepass")
    file = folder / "benchmarks" / "toy.yaml"
    file.write_text(to_json(BENCHMARK if benchmark is None else benchmark), "utf-8", "surrogatepass")
    (folder / "toy.json").write_text(json.dumps(rows()))
    random_image().save(folder / "page.png")
    return file


def answered(folder: Path, benchmark: Any, answers: int) -> None:
    """Evaluate a model that knows no answer; all samples must be answered, and the score be a share."""
    with contextlib.redirect_stderr(io.StringIO()):
        result = evaluate(
            *(FakeModel(str.upper), FakeProcessor(), benchmark),
            data_root=folder,
            output_dir=folder / "out",
            batch_size=2,
            progress=False,
        )
    assert result["num_samples"] == answers, f"{result['num_samples']} of {answers} samples"
    assert all(0 <= score <= 1 for score in result["scores"].values()), result["scores"]


# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BrokenTable:
    """A table's format and what was done to its rows, or to its bytes."""

    ending: str
    change: Change | Damage


def attempt_table(broken: BrokenTable, folder: Path) -> None:
    """Write the table in its format and evaluate on it. What pyarrow itself cannot hold in a table is no case."""
    write_benchmark(folder / "bench", {**BENCHMARK, "data": f"toy{broken.ending}"})
    file, change = folder / "bench" / f"toy{broken.ending}", broken.change
    picture = io.BytesIO()
    random_image().save(picture, "png")
    good = rows({"bytes": picture.getvalue(), "path": None} if broken.ending == ".parquet" else "page.png")
    found = good if isinstance(change, Damage) else change.of(good)
    if broken.ending == ".parquet":
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), file)
        except Exception:  # of any class
            return
    else:
        lines = found if broken.ending == ".jsonl" and isinstance(found, list) else [found]
        file.write_text("\n".join(map(to_json, lines)), "utf-8", "surrogatepass")
    if isinstance(change, Damage):
        file.write_bytes(change.of(file.read_bytes()))
    whole = isinstance(found, list) and not isinstance(change, Damage) and all(isinstance(row, dict) for row in found)
    answered(folder / "bench", load_benchmark(folder / "bench" / "benchmarks" / "toy.yaml"), len(found) if whole else 3)


def broken_tables() -> st.SearchStrategy[BrokenTable]:
    """Changes of rows and of bytes, in every format."""
    return st.builds(BrokenTable, st.sampled_from(ENDINGS), changes(rows()) | changes(rows()) | damages)


TABLES = Category("benchmark data", st.deferred(broken_tables), attempt_table)

# ── what describes it ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BrokenYaml:
    """A benchmark's or a suite's YAML file, and what was done to its fields or its bytes."""

    kind: str
    change: Change | Damage


def attempt_yaml(broken: BrokenYaml, folder: Path) -> None:
    """Evaluate by the benchmark, or load the suite."""
    from proxyv.evaluation.benchmarks import load_suite

    base, change = {"benchmark": BENCHMARK, "suite": TOYS}[broken.kind], broken.change
    changed = {broken.kind: change.of(base)} if isinstance(change, Change) else {}
    file = write_benchmark(folder / "bench", **changed)
    target = file if broken.kind == "benchmark" else folder / "bench" / "suites" / SUITE
    if isinstance(change, Damage):
        target.write_bytes(change.of(target.read_bytes()))
    if broken.kind == "benchmark":
        answered(folder / "bench", target, 3)
    else:
        suite = load_suite(target, folder / "bench")
        assert suite.benchmarks and suite.terms, "a suite of nothing"


YAMLS = Category(
    "suites",
    st.builds(BrokenYaml, st.just("benchmark"), changes(BENCHMARK) | damages)
    | st.builds(BrokenYaml, st.just("suite"), changes(TOYS) | damages),
    attempt_yaml,
)
