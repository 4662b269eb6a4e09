"""Merge a stage's LoRA adapters into the LLM: an ordinary model folder, its logits checked."""

from __future__ import annotations

import argparse

from proxyv.cli.options import call
from proxyv.cli.printing import show

EXAMPLE = "runs/vicuna-7b-lora/finetune models/vicuna-7b-lora"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """From where to where."""
    parser.add_argument("source", help="adapter folder, or a run whose last stage trained adapters")
    parser.add_argument("target", help="folder to write")
    parser.add_argument("--dtype", help="precision to save in: float32, bfloat16 or float16")


def run(args: argparse.Namespace) -> None:
    """Merge, then print the folder and how far its logits are from the adapted model's."""
    from proxyv.checkpoints.merge import merge_folder

    figures = call(merge_folder, args)
    difference, tolerance = figures["largest_difference"], figures["tolerance"]
    checked = f"merged logits differ from the adapted model's by {difference:.2g} at most; tolerance {tolerance:.2g}"
    show(figures, args.json, [args.target, checked])
