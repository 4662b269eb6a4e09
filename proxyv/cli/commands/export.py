"""Write a model as a folder for the Hugging Face hub: weights, processor, model card with recipe and results.

Loading it needs proxyv installed; no code travels with the folder.
"""

from __future__ import annotations

import argparse

from proxyv.cli.options import call

EXAMPLE = "runs/tiny-proxyv-l2 hub/tiny-proxyv-l2 --hub-name me/tiny-proxyv-l2"
PRINTS_FIGURES = False
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """From where to where, and what the model card says."""
    parser.add_argument("model", help="run folder or model folder")
    parser.add_argument("target", help="folder to write; must be empty or absent")
    parser.add_argument("--hub-name", metavar="OWNER/NAME", help="name on the hub, for the model card")
    parser.add_argument(
        "--license",
        dest="license_id",
        metavar="LICENSE",
        help="the weights' licence as the hub spells it (default: other)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the folder, then print it."""
    from proxyv.checkpoints.export import export

    print(call(export, args))
