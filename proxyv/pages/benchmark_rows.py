"""Generated rows in the columns of the public benchmarks, so that an evaluation can be tried before the data are there.

Questions and answers mean nothing, images are plain colours. `write_generated` puts them where
eval/benchmarks/<name>.yaml looks: a folder per data set below the data root, in it the files as they lie on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets

from proxyv.errors import UserError, suggest
from proxyv.pages import benchmark_columns as columns
from proxyv.pages.benchmark_columns import Row
from proxyv.pages.benchmark_files import no_progress_bars
from proxyv.pages.generate import stream
from proxyv.pages.random_text import Draw

MakeRows = Callable[[Draw, int], Iterator[Row]]

_REFCOCO = {"refcoco": ("RefCOCO", "val test testA testB"), "refcoco_plus": ("RefCOCOplus", "val testA testB")}
_REFCOCO["refcocog"] = ("RefCOCOg", "val test")

# Benchmark → its files below the data root and what rows are in them; that of the questions comes first.
TABLES: dict[str, dict[str, MakeRows]] = {
    "docvqa_val": {"DocVQA/DocVQA/validation-00000-of-00001.parquet": columns.documents_rows},
    "infovqa_val": {"DocVQA/InfographicVQA/validation-00000-of-00001.parquet": columns.documents_rows},
    "chartqa": {"ChartQA/data/test-00000-of-00001.parquet": columns.chartqa_rows},
    "textvqa_val": {"textvqa/data/validation-00000-of-00001.parquet": columns.textvqa_rows},
    "vizwiz_vqa_val": {"VizWiz-VQA/data/val-00000-of-00001.parquet": columns.vizwiz_rows},
    "ocrbench": {"OCRBench/data/test-00000-of-00001.parquet": columns.ocrbench_rows},
    "pope": {"POPE/data/test-00000-of-00001.parquet": columns.pope_rows},
    "mme": {"MME/data/test-00000-of-00001.parquet": columns.mme_rows},
    "scienceqa_img": {"ScienceQA/ScienceQA-IMG/test-00000-of-00001.parquet": columns.scienceqa_rows},
    "gqa": {
        "GQA/testdev_balanced_instructions/testdev-00000-of-00001.parquet": columns.gqa_rows,
        "GQA/testdev_balanced_images/testdev-00000-of-00001.parquet": columns.gqa_images_rows,
    },
    "seedbench_image": {"SEED-Bench/data/test-00000-of-00001.parquet": columns.seedbench_rows},
    "mmstar": {"MMStar/val-00000-of-00001.parquet": columns.mmstar_rows},
    "ai2d": {"ai2d/data/test-00000-of-00001.parquet": columns.ai2d_rows},
    "realworldqa": {"RealWorldQA/data/test-00000-of-00001.parquet": columns.realworldqa_rows},
    "mmbench_en_dev": {"MMBench/en/dev-00000-of-00001.parquet": columns.mmbench_rows},
    "mmmu_val": {"MMMU/data/validation-00000-of-00001.parquet": columns.mmmu_rows},
    "ccpdf_parsing": {"DocStruct4M/val.jsonl": columns.ccpdf_rows},
    **{
        f"{name}_{split}": {f"{folder}/data/{split}-00000-of-00001.parquet": columns.refcoco_rows}
        for name, (folder, splits) in _REFCOCO.items()
        for split in splits.split()
    },
}


def generated_rows(benchmark: str, count: int, seed: int) -> list[Row]:
    """Rows of at least `count` samples, a pure function of the arguments; images are Pillow's.

    Raises UserError for a benchmark that none are generated for.
    """
    file, make = next(iter(_tables(benchmark).items()))
    return _rows(benchmark, file, make, count, seed)


def write_generated(benchmark: str, data_root: str | Path, count: int, seed: int) -> list[Path]:
    """Write a benchmark's generated rows where it looks for its data; returns the files.

    Raises UserError for a benchmark that none are generated for.
    """
    written = []
    for file, make in _tables(benchmark).items():
        rows, path = _rows(benchmark, file, make, count, seed), Path(data_root) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            with no_progress_bars():
                datasets.Dataset.from_list(rows).to_parquet(path)
        else:
            _write_lines(path, rows, Draw(stream(seed, "test", benchmark, 0, "images")))
        written.append(path)
    return written


def _write_lines(path: Path, rows: list[Row], draw: Draw) -> None:
    """JSON lines, and an image at each path that they name."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name in [name for row in rows for name in row["image"]]:
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        draw.image().save(path.parent / name)


def _tables(benchmark: str) -> dict[str, MakeRows]:
    if benchmark not in TABLES:
        raise UserError(f"no rows can be generated for benchmark '{benchmark}'{suggest(benchmark, TABLES)}")
    return TABLES[benchmark]


def _rows(benchmark: str, file: str, make: MakeRows, count: int, seed: int) -> list[Row]:
    return list(make(Draw(stream(seed, "test", benchmark, 0, file)), count))
