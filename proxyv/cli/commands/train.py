"""Train a recipe's stages in order."""

from __future__ import annotations

import argparse

from proxyv.cli.options import EXAMPLE_RECIPE, add_recipe, call, read_recipe

EXAMPLE = f"{EXAMPLE_RECIPE} --data_root data --stages.finetune.micro_batch_size 2"
PRINTS_FIGURES = False
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """The recipe, and whether to go on."""
    add_recipe(parser)
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")


def run(args: argparse.Namespace) -> None:
    """Train, then print the run folder."""
    from proxyv.train import train

    print(call(train, args, read_recipe(args)))
