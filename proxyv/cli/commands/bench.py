"""Time prefill, decoding and memory of several models side by side in one run, at every setting asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxyv.cli.options import EXAMPLE_RECIPE, add_into, call
from proxyv.cli.printing import show, write
from proxyv.results.bench import BenchResult

EXAMPLE = f"{EXAMPLE_RECIPE} pyramiddrop '{{name: random, tokens: 144}}' --peak"
PRINTS_FIGURES = True
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """The models, the settings to time them at, and how often."""
    parser.add_argument(
        "recipes",
        nargs="+",
        help="recipe YAML files (--field.subfield value for all); behind the first also methods on its LLM and tower, "
        "by name or as {name: …, field: …}. Or results of earlier runs (.json), to print their tables",
    )
    parser.add_argument(
        "--compare",
        dest="baseline",
        metavar="COMPARE",
        default=None,
        help="what ratios are to: a method, a recipe file, or none (default: full)",
    )
    parser.add_argument("--crops", type=int, nargs="+", help="of the one image (default: the most the recipe allows)")
    parser.add_argument("--batch_size", dest="batch_sizes", metavar="BATCH_SIZE", type=int, nargs="+")
    parser.add_argument(
        "--attention",
        dest="attentions",
        metavar="ATTENTION",
        nargs="+",
        help="eager, sdpa, flex_attention, … (default: the first recipe's)",
    )
    parser.add_argument("--text_tokens", type=int)
    parser.add_argument("--new_tokens", type=int, help="decoding steps")
    parser.add_argument("--warmup", type=int, help="rounds that do not count")
    parser.add_argument("--repeats", type=int, help="rounds of all models in turn")
    parser.add_argument("--splits", type=int, help="rounds that also split a prefill into its parts")
    parser.add_argument("--peak", action="store_true", help="measure the device's rate of matrix products as well")
    parser.add_argument("--fold", help="merge the methods' linear maps: yes, no, or both to compare")
    parser.add_argument(
        "--model",
        dest="model_path",
        metavar="MODEL",
        help="folder of trained weights for the first recipe (default: random weights)",
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16")
    parser.add_argument("--output", default=None, help="JSON file for the result; its tables go into a .md beside it")
    add_into(parser, "also update the table of that name in a document")


def run(args: argparse.Namespace) -> None:
    """Time them, or read earlier results, and print the tables."""
    from proxyv.profiling.bench import bench_tables, read_result
    from proxyv.report.markdown import replace_table

    if all(word.endswith(".json") for word in args.recipes):  # of earlier runs
        results = [read_result(word) for word in args.recipes]
        tables = bench_tables(results, args.baseline)
    else:
        results = [_time(args)]
        tables = bench_tables(results)
        if args.output is not None:
            write(args.output, results[0])
            Path(args.output).with_suffix(".md").write_text(tables, encoding="utf-8")
    if args.into is not None:
        document, name = args.into
        replace_table(document, name, tables)
    show(results[0] if len(results) == 1 else {"results": results}, args.json, [tables.rstrip()])


def _time(args: argparse.Namespace) -> BenchResult:
    from proxyv.profiling.bench import bench_recipes, read_recipes

    recipes = read_recipes(args.recipes, args.overrides)
    if args.baseline is None:
        return call(bench_recipes, args, recipes)
    return call(bench_recipes, args, recipes, compare=None if args.baseline == "none" else args.baseline)
