"""Turn a checkpoint of the authors' code, of LLaVA or of InternLM2 into a proxyv folder, file by file.

An LLM or a vision tower whose weights are pickles (pytorch_model*.bin) becomes the same folder with safetensors, which
alone are read elsewhere.
"""

from __future__ import annotations

import argparse
import sys

from proxyv.cli.options import call

EXAMPLE = "proxyv_vicuna_7b_layer12 models/vicuna-7b-proxyv-l12"
PRINTS_FIGURES = False
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """From where to where, and what the checkpoint does not say."""
    parser.add_argument("source", help="folder or hub id of a checkpoint, or a stage-1 file (mm_projector.bin)")
    parser.add_argument("target", help="folder to write; InternLM2 becomes a Llama folder for llm.pretrained")
    parser.add_argument("--tower", help="folder or hub id of the vision tower (default: what the checkpoint names)")
    parser.add_argument(
        "--onto", metavar="RECIPE", help="for a stage-1 file: the recipe that names LLM, tower and method"
    )
    parser.add_argument(
        "--chat_template", help="a shipped chat template (default: the one the family was trained with)"
    )


def run(args: argparse.Namespace) -> None:
    """Convert, then print the folder; notes go to stderr."""
    from proxyv.convert import convert

    converted = call(convert, args)
    for note in converted.notes:
        print(f"note: {note}", file=sys.stderr)
    print(converted.folder)
