"""Measure the modality integration rate (MIR): how far vision and text rows lie apart inside an LLM.

Lower is better aligned. Behind every decoder layer, and log10 of their sum, in two modes that do not agree: `exact`,
the definition, and `upstream_fast`, what the published code's default computes. Compare figures of one mode, one list
of images and texts and one chat template only.
"""

from __future__ import annotations

import argparse

from proxyv.cli.options import add_model, call
from proxyv.cli.printing import aligned, show, write
from proxyv.report.markdown import ABSENT
from proxyv.results.mir import MirResult

EXAMPLE = "runs/tiny-full --pairs runs/quickstart/data/instruct.json --images runs/quickstart/data/images"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model, and the list of images and texts."""
    add_model(parser)
    parser.add_argument("--pairs", required=True, help="LLaVA records with one image each (.json, .jsonl, .parquet)")
    parser.add_argument("--images", help="folder of the records' images (default: the list's)")
    parser.add_argument("--limit", type=int, help="first records of the list only (default: 100)")
    parser.add_argument("--output", default=None, help="JSON file to write the figures to")


def run(args: argparse.Namespace) -> None:
    """Run the model on the list, and print a line a layer and the rate."""
    from proxyv.checkpoints.load import load_for_evaluation
    from proxyv.profiling.mir import check_pairs, measure_mir

    call(check_pairs, args)
    loaded = call(load_for_evaluation, args, args.model)
    result = call(measure_mir, args, loaded.model, loaded.processor, recipe=loaded.recipe.get("name"))
    write(args.output, result)
    show(result, args.json, _lines(result))


def _lines(result: MirResult) -> list[str]:
    head = ["layer", "exact", "upstream_fast", "vision rows", "text rows"]
    rows = [
        [str(gap["layer"]), *(f"{gap[mode]:.4g}" for mode in ("exact", "upstream_fast"))]
        + [str(gap["vision_rows"]), str(gap["text_rows"])]
        for gap in result["layers"]
    ]
    rates = result["mir"]
    shown = (f"{mode} {ABSENT if rate is None else f'{rate:.3f}'}" for mode, rate in rates.items())
    lines = [*aligned([head, *rows]), f"MIR over {result['num_pairs']} pairs: {', '.join(shown)}"]
    if result["cut_short"]:
        lines.append(f"{result['cut_short']} texts were cut at the LLM's positions")
    if result["published"] is not None:
        lines.append(f"published: {result['published']['value']:.2f} ({result['published']['setting']})")
    return lines
