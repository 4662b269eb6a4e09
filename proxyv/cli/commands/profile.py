"""Count a prefill's FLOPs, vision tokens and memory, and parameters, by the real forward on the meta device."""

from __future__ import annotations

import argparse

from proxyv.cli.options import EXAMPLE_RECIPE, add_recipe, call, read_recipe
from proxyv.cli.printing import flat_lines, show, write

EXAMPLE = f"{EXAMPLE_RECIPE} --compare full --json"
PRINTS_FIGURES = True
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """The recipe, and the sample to count at."""
    add_recipe(parser)
    parser.add_argument("--compare", help="'full', or another recipe, to compare with")
    parser.add_argument("--crops", type=int, help="crops of the one image (default: the most the recipe allows)")
    parser.add_argument("--text_tokens", type=int)
    parser.add_argument("--output", default=None, help="JSON file to write the figures to")


def run(args: argparse.Namespace) -> None:
    """Count, and print one figure a line."""
    from proxyv.profiling import profile_recipe

    result = call(profile_recipe, args, read_recipe(args))
    write(args.output, result)
    show(result, args.json, flat_lines(result))
