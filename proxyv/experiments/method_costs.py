"""Every file of configs/method, which hold published defaults, on one LLM: what it needs, what a prefill then costs.

    python -m proxyv.experiments.method_costs --output eval/results/methods.json --into eval/README.md#methods

Every figure comes from `profile_recipe`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxyv.config import load_recipe
from proxyv.environment import environment
from proxyv.experiments.paper_flops import CONFIGS, recipe_file
from proxyv.files import write_json
from proxyv.profiling.flops import profile_recipe
from proxyv.report.markdown import ABSENT, replace_table, table_lines, with_notes

LLM = "vicuna-7b"
SAMPLE = ("crops", "text_tokens", "dtype")
FIGURES = (
    *("method", "needs", "approximate", "selection_flops", "selection_flops_before_llm", "selection_flops_in_decoder"),
    *("decoder_flops", "total_flops", "decoder_flops_reduction", "total_flops_reduction"),
    *("vision_tokens_by_layer", "mean_vision_tokens", "cache_bytes", "activation_bytes", "added_parameters"),
)


def compare_methods(llm: str = LLM) -> dict[str, Any]:
    """`methods`: file name → figures of `profile_recipe`, for each of `method_configs`; the sample and environment.

    Raises UserError outside a checkout, or where a method does not fit the LLM.
    """
    recipe = load_recipe(recipe_file(f"{llm}-full"))
    methods: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    for name, method in tqdm(method_configs().items(), desc="count", unit="method", delay=3, leave=False):
        profile: Mapping[str, Any] = profile_recipe(replace(recipe, name=name, method=method), compare="full")
        methods[name] = {key: profile[key] for key in FIGURES}
        sample = {key: profile["compared"].get(key, profile[key]) for key in SAMPLE}
    return {"llm": llm, **sample, "methods": methods, **environment()}


def method_configs() -> dict[str, dict[str, Any]]:
    """File name → method, for every file of configs/method; `full` first."""
    files = sorted((CONFIGS / "method").glob("*.yaml"), key=lambda file: (file.stem != "full", file.stem))
    return {file.stem: dict(load_recipe(file).method) for file in files}


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table, and what its words mean."""
    head = (
        *("method", "needs", "selection GFLOPs", "decoder FLOPs reduction %", "total FLOPs reduction %"),
        *("vision tokens per layer", "cache MiB", "activations MiB", "added parameters (millions)"),
    )
    rows = []
    needs: dict[str, str] = {}
    for name, figures in result["methods"].items():
        needs |= figures["needs"]
        reductions = [figures[f"{part}_flops_reduction"] for part in ("decoder", "total")]
        rows.append(
            [
                f"{name} (approximate)" if figures["approximate"] else name,
                ", ".join(figures["needs"]) or ABSENT,
                f"{figures['selection_flops'] / 1e9:.1f}",
                *(f"{round(100 * reduction, 1) + 0.0:.1f}" for reduction in reductions),
                f"{figures['mean_vision_tokens']:.0f}",
                f"{figures['cache_bytes'] / 2**20:.0f}",
                f"{figures['activation_bytes'] / 2**20:.0f}",
                f"{figures['added_parameters'] / 1e6:.1f}",
            ]
        )
    notes = [
        f"{result['llm']}, a prefill of {result['crops']} crops and {result['text_tokens']} text tokens, "
        f"{result['dtype']}, each method at its published defaults (configs/method).",
        "Selection: what choosing and merging vision tokens costs, between tower and LLM and in decoder layers; it "
        "counts in the total, and what lies in decoder layers in the decoder FLOPs too.",
        "Vision tokens per layer: that text behind them can read in the cache, mean over layers.",
        "Activations: the most that tensors hold at one moment beside weights, with eager attention, which keeps whole "
        "matrices of scores.",
        *[f"{name}: {meaning}." for name, meaning in sorted(needs.items())],
    ]
    if any(figures["approximate"] for figures in result["methods"].values()):
        notes.append("approximate: no code is public; the method is rebuilt from what the paper says.")
    return with_notes(table_lines(head, rows, text_columns=2), notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, write the file, update the table in a document."""
    parser = argparse.ArgumentParser(prog="python -m proxyv.experiments.method_costs", description=__doc__)
    parser.add_argument("--llm", default=LLM, help="an LLM of configs/recipes/<llm>-full.yaml")
    parser.add_argument("--output", default="eval/results/methods.json", help="JSON file to write")
    parser.add_argument("--into", metavar="FILE#NAME", help="also update the table of that name in a document")
    args = parser.parse_args(arguments)
    result = compare_methods(args.llm)
    write_json(Path(args.output), result)
    print(args.output)
    if args.into is not None:
        document, _, name = args.into.partition("#")
        print(replace_table(document, name, to_markdown(result)))


if __name__ == "__main__":
    main()
