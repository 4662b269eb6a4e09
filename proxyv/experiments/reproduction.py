"""What it would take to reproduce the paper's tables: GPU hours and memory of training and evaluation, estimated.

    python -m proxyv.experiments.reproduction --output eval/results/reproduction.json --into docs/reproduce.md

Nothing here was measured: the profiler's counts of one sample, times the published number of samples, by a rate that an
H100 is taken to keep up. The assumptions are in the result, and every table names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxyv.config import Recipe, StageSpec, load_recipe
from proxyv.environment import environment
from proxyv.evaluation.benchmarks import Benchmark, list_names, load_benchmark, load_suite
from proxyv.experiments.paper_flops import recipe_file
from proxyv.files import write_json
from proxyv.profiling.flops import count_parameters, prefill_figures
from proxyv.profiling.prefill import shapes
from proxyv.profiling.sample import check_sample
from proxyv.report.markdown import ABSENT, replace_table, table_lines, with_notes
from proxyv.report.published import published, recipe_name
from proxyv.results.profile import PrefillFigures
from proxyv.sources.source import Source, all_sources


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted, and not counted."""

    gpus: int = 8
    training_teraflops: float = 300  # of an H100's 989 (dense, bfloat16)
    prefill_teraflops: float = 200
    terabytes_per_second: float = 1.5  # of an H100's 3.35: a new token reads every weight once
    pretrain_text_tokens: int = 250  # of a sample, whose image has the most crops there are
    finetune_text_tokens: int = 350
    prompt_tokens: int = 50
    answer_tokens: int = 16


ASSUMED = Assumptions()
WEIGHT = 2  # bytes of a weight in bfloat16
# Bytes of a trained weight beside it under ZeRO: its gradient, and in float32 itself and Adam's two moments.
STATE = 2 + 3 * 4
TRAINING_FREE = "mask_attention"  # figure 2: evaluated on the weights of `full`
EVALUATED = ("vicuna-7b-full", "vicuna-7b-proxyv-l12")


def estimate() -> dict[str, Any]:
    """`training`: recipe → stage → GPU hours and GB on each GPU; `evaluation`: suite → the same for `EVALUATED`, with
    what is to be downloaded; `assumed`; the environment. Raises UserError outside a checkout."""
    names = [recipe_name(row) for row in published()["fine"] if row["method"] != TRAINING_FREE]
    training, evaluated = {}, {}
    for name in tqdm(names, desc="count", unit="recipe", delay=3, leave=False):
        recipe = load_recipe(recipe_file(name))
        training[name] = {stage: _stage(recipe, spec) for stage, spec in recipe.stages.items()}
        if name in EVALUATED:
            evaluated[name] = recipe
    suites = [name for name in list_names("suites") if not name.startswith("synthetic")]
    evaluation = {name: _suite(name, evaluated) for name in suites}
    return {"assumed": asdict(ASSUMED), "training": training, "evaluation": evaluation, **environment()}


def _stage(recipe: Recipe, stage: StageSpec) -> dict[str, Any]:
    """One stage's samples, FLOPs of all of them, GPU hours and gigabytes on each GPU."""
    crops = 1 if stage.image_mode == "pad" else check_sample(recipe, None, 1)
    text = ASSUMED.pretrain_text_tokens if crops == 1 else ASSUMED.finetune_text_tokens
    model = shapes(recipe)
    figures, parameters = prefill_figures(recipe, model, crops, text), count_parameters(model)
    samples = sum(_rows(recipe.data[data].path) for data in stage.data)
    flops = samples * training_flops(figures, stage)
    trained = sum(parameters[group] for group in stage.train)
    states = (WEIGHT * parameters["total"] + STATE * trained) / ASSUMED.gpus
    return {
        "samples": samples,
        "flops": flops,
        "gpu_hours": flops / (ASSUMED.training_teraflops * 1e12) / 3600,
        "gigabytes": (states + stage.micro_batch_size * figures["activation_bytes"]) / 1e9,
    }


def training_flops(figures: PrefillFigures, stage: StageSpec) -> float:
    """FLOPs of one sample's step. The frozen tower runs forward; through the rest, gradients run back to what is
    trained before the LLM, and into the LLM's weights where it is trained."""
    passes = 2 + (1 if "llm" in stage.train else 0) + (1 if stage.gradient_checkpointing else 0)
    rest = figures["total_flops"] - figures["tower_flops"] - figures["head_flops"]
    return figures["tower_flops"] + passes * (rest + figures["text_tokens"] * figures["head_flops"])


def _suite(name: str, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """What a suite's data are, and what each recipe takes to answer it, one sample at a time."""
    benchmarks = [load_benchmark(one) for one in load_suite(name).benchmarks]
    sources = {source.name: source for benchmark in benchmarks for source in _sources(benchmark.data)}
    sizes = [source.gigabytes for source in sources.values()]
    taken = {}
    for recipe_name_, recipe in recipes.items():
        model = shapes(recipe)
        figures = prefill_figures(recipe, model, check_sample(recipe, None, 1), ASSUMED.prompt_tokens)
        weights = WEIGHT * count_parameters(model)["total"]
        seconds = sum(_rows(one.data) * _answer_seconds(one, figures, weights) for one in benchmarks)
        taken[recipe_name_] = {
            "gpu_hours": seconds / 3600,
            "gigabytes": (weights + figures["activation_bytes"]) / 1e9,
        }
    return {
        "benchmarks": len(benchmarks),
        "sources": sorted(sources),
        "download_gigabytes": sum(size for size in sizes if size is not None),
        "sources_of_unknown_size": sum(size is None for size in sizes),
        "rows": sum(_rows(one.data) for one in benchmarks),
        "benchmarks_of_unknown_rows": [one.name for one in benchmarks if not _rows(one.data)],
        "recipes": taken,
    }


def _answer_seconds(benchmark: Benchmark, figures: PrefillFigures, weights: int) -> float:
    """Of one sample: its prefill, and its answer token by token. A transcription is as long as it may be."""
    tokens = benchmark.max_new_tokens
    if "bleu" not in benchmark.metrics:
        tokens = min(tokens, ASSUMED.answer_tokens)
    prefill = figures["total_flops"] / (ASSUMED.prefill_teraflops * 1e12)
    return prefill + tokens * weights / (ASSUMED.terabytes_per_second * 1e12)


def _sources(data: str) -> list[Source]:
    return [source for source in all_sources() if source.holds(data)]


def _rows(data: str) -> int:
    """Published rows of the files that `data` names; 0 where they are unknown."""
    return sum(files.rows or 0 for source in all_sources() for files in source.files_of(data))


def training_table(result: Mapping[str, Any]) -> str:
    """GPU hours and memory of each recipe's stages, and what was assumed."""
    assumed = Assumptions(**result["assumed"])
    head = ("recipe", "stage 1 GPU hours", "stage 2 GPU hours", "stage 1 GB on each GPU", "stage 2 GB on each GPU")
    rows = []
    for name, stages in result["training"].items():
        hours = [f"{stage['gpu_hours']:,.0f}" for stage in stages.values()]
        memory = [f"{stage['gigabytes']:.0f}" for stage in stages.values()]
        rows.append([name, *hours, *memory])
    first = next(iter(result["training"].values()))
    samples = " and ".join(f"{stage['samples']:,}" for stage in first.values())
    notes = [
        "Estimates, nothing was measured: FLOPs of one sample as the profiler counts them, times the published "
        f"{samples} samples, at {assumed.training_teraflops:g} TFLOP/s on an H100 (30 % of its peak).",
        f"Every image has the most crops there are (1 in stage 1, 5 in stage 2), with {assumed.pretrain_text_tokens} "
        f"and {assumed.finetune_text_tokens} text tokens: smaller images and records of text alone make it less.",
        "Passes: forward, recomputed (gradient checkpointing), back to what is trained, and into the LLM's weights in "
        "stage 2; the frozen tower runs forward only.",
        f"Memory on each of {assumed.gpus} GPUs: weights, gradients and Adam's state under ZeRO-3, and the recipe's "
        "micro-batch times the most that tensors of one prefill hold with eager attention; sdpa holds less.",
    ]
    return with_notes(table_lines(head, rows), notes)


def evaluation_table(result: Mapping[str, Any]) -> str:
    """What each suite needs: downloads, GPU hours, memory; and what was assumed."""
    assumed = Assumptions(**result["assumed"])
    head = ["suite", "data", "rows", "GB to download", *(f"{name}: GPU hours" for name in EVALUATED)]
    rows = []
    for name, suite in result["evaluation"].items():
        size = f"{suite['download_gigabytes']:.1f}"
        size = _with_unknown(size, suite["sources_of_unknown_size"], len(suite["sources"]))
        unread = suite["benchmarks_of_unknown_rows"]
        count = _with_unknown(f"{suite['rows']:,}", len(unread), suite["benchmarks"])
        hours = [f"{suite['recipes'][one]['gpu_hours']:.1f}" if suite["rows"] else ABSENT for one in EVALUATED]
        rows.append([name, ", ".join(suite["sources"]), count, size, *hours])
    memory = {one: suite["recipes"][one]["gigabytes"] for suite in result["evaluation"].values() for one in EVALUATED}
    notes = [
        "Estimates, nothing was measured: one sample at a time on one H100, five crops and "
        f"{assumed.prompt_tokens} prompt tokens, the prefill at {assumed.prefill_teraflops:g} TFLOP/s, then "
        f"{assumed.answer_tokens} new tokens (of transcriptions as many as are allowed), each of which reads all "
        f"weights at {assumed.terabytes_per_second:g} TB/s. Batches, several GPUs and smaller images make it less; "
        "rows that hold several questions (RefCOCO) make it more.",
        f"Memory: {', '.join(f'{name} {size:.0f} GB' for name, size in memory.items())}, weights and one prefill with "
        "eager attention.",
        "Rows and sizes are those that configs/sources state; >: what is not known of some data is left out.",
    ]
    return with_notes(table_lines(head, rows, text_columns=2), notes)


def _with_unknown(known: str, unknown: int, of: int) -> str:
    """A sum of which some parts are not known."""
    return "unknown" if unknown == of else f"> {known}" if unknown else known


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate, write the file, update both tables of a document."""
    parser = argparse.ArgumentParser(prog="python -m proxyv.experiments.reproduction", description=__doc__)
    parser.add_argument("--output", default="eval/results/reproduction.json", help="JSON file to write")
    parser.add_argument(
        "--into", metavar="FILE", help="also update the tables `training` and `evaluation` of a document"
    )
    args = parser.parse_args(arguments)
    result = estimate()
    write_json(Path(args.output), result)
    print(args.output)
    if args.into is not None:
        replace_table(args.into, "training", training_table(result))
        print(replace_table(args.into, "evaluation", evaluation_table(result)))


if __name__ == "__main__":
    main()
