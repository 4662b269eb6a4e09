"""Print one training sample as the model sees it, supervised tokens marked."""

from __future__ import annotations

import argparse

from proxyv.cli.options import EXAMPLE_RECIPE, add_recipe, call, read_recipe

EXAMPLE = f"{EXAMPLE_RECIPE} --data llava_next --index 3"
PRINTS_FIGURES = False
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """The recipe, and which sample."""
    add_recipe(parser)
    parser.add_argument(
        "--data", dest="data_name", metavar="NAME", help="name of the data set in the recipe (default: its first)"
    )
    parser.add_argument("--index", type=int)


def run(args: argparse.Namespace) -> None:
    """Print the sample."""
    from proxyv.data import show_sample

    print(call(show_sample, args, read_recipe(args)))
