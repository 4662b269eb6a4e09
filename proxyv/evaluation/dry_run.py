"""Dry runs: a suite on two generated rows of each benchmark, so that a job is known to work before the data are there.

Rows lie where the benchmark looks for its data, below a folder of the dry run's own, in its columns. What is measured
on them means nothing: every result says that its rows were generated, and no table takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import Benchmark
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.files import write_records
from proxyv.pages.benchmark_files import no_progress_bars
from proxyv.pages.benchmark_rows import TABLES, write_generated
from proxyv.processes import is_main
from proxyv.results.dry_run import GENERATED

ROWS = 2  # of each benchmark
FOLDER = "dry-run"  # in the folder for results


@dataclass
class GeneratedBenchmark(Benchmark):
    """A benchmark whose rows are generated, as its results say."""

    def definition(self) -> dict[str, Any]:
        """As of the benchmark itself, and that its rows are generated."""
        return {**super().definition(), GENERATED: True}


def generated_samples(benchmark: Benchmark, data_root: str | Path) -> BenchmarkSamples:
    """A benchmark's samples, of rows that the main process generates below `data_root`.

    Raises UserError for a benchmark of one's own whose rows must hold more than a question, an image and answers.
    """
    marked = GeneratedBenchmark(**{field.name: getattr(benchmark, field.name) for field in fields(benchmark)})
    marked.title = f"{benchmark.title} (dry run)"
    try:
        if is_main():
            _write(benchmark, Path(data_root))
        return BenchmarkSamples(marked, data_root)
    except UserError as error:
        raise UserError(f"benchmark {benchmark.name}: no rows can be generated in its columns ({error})") from error


def _write(benchmark: Benchmark, data_root: Path) -> None:
    if benchmark.name in TABLES:
        write_generated(benchmark.name, data_root, ROWS, seed=0)
        return
    path = data_root / benchmark.data.replace("*", "0")
    path = path if path.suffix else path / "0.parquet"  # a folder of shards
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(benchmark, index) for index in range(ROWS)]
    if path.suffix == ".parquet":
        with no_progress_bars():
            datasets.Dataset.from_list(rows).to_parquet(path)
        return
    for index, row in enumerate(rows):
        for column in [name for name, value in row.items() if isinstance(value, Image.Image)]:
            row[column].save(path.parent / f"{column}-{index}.png")
            row[column] = f"{column}-{index}.png"
    write_records(path, rows)


def _row(benchmark: Benchmark, index: int) -> dict[str, Any]:
    """A question about an image, ten answers, and in every kept column a text, or a box."""
    columns = benchmark.columns
    row: dict[str, Any] = {name: f"{name} {index}" for name in columns.keep}
    if "bbox" in row:
        row["bbox"] = [8.0, 8.0, 16.0, 16.0]
    if columns.id is not None:
        row[columns.id] = str(index)
    if columns.image is not None:
        row[columns.image] = Image.new("RGB", (64 + 32 * index, 48), (200, 200, 200))
    return {**row, columns.question: f"Question {index}?", columns.answers: [f"answer {index}"] * 10}
