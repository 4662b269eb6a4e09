"""The whole pipeline at tiny size, on this machine: train, evaluate, measure, report."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxyv.cli.options import call

EXAMPLE = "--output runs/quickstart"
PRINTS_FIGURES = False
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where and how small."""
    parser.add_argument(
        "--output", type=Path, default=Path("runs/quickstart"), help="folder for data, runs and the report"
    )
    parser.add_argument("--smoke", action="store_true", help="a minute's version that learns nothing")
    parser.add_argument("--seed", type=int)


def run(args: argparse.Namespace) -> None:
    """Run it; its table goes to stdout."""
    from proxyv.experiments.quickstart import quickstart

    call(quickstart, args)
