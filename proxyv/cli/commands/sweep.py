"""Count, train and evaluate many recipes over several seeds, into one table; what is finished is kept."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from proxyv.cli.options import add_batch_size, call, comma_separated
from proxyv.cli.printing import show
from proxyv.errors import UserError

EXAMPLE = "configs/recipes/tiny-*.yaml --seeds 0 1 2 --shared tower,text,caption"
PRINTS_FIGURES = True
OVERRIDABLE = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """The recipes, and what to do with each."""
    parser.add_argument(
        "paths", nargs="+", help="recipe YAML files, or folders of them; --field.subfield value for all"
    )
    parser.add_argument("--output", default="runs/sweep", help="folder for runs, sweep.json, table and plot")
    parser.add_argument(
        "--do", type=comma_separated, help="steps, comma-separated (default: all of profile,train,eval)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the training (default: 0)")
    parser.add_argument("--shared", type=_stages, help="stages to train once per seed for all recipes (default: none)")
    add_batch_size(parser)
    parser.add_argument("--device", help="of the evaluation: cpu, cuda, … (default: cuda where there is one)")


def run(args: argparse.Namespace) -> None:
    """Run every step, print the table, and fail where a recipe has failed."""
    from proxyv.experiments.sweep import sweep
    from proxyv.experiments.sweep_results import failures, sweep_table
    from proxyv.processes import is_main

    with redirect_stdout(sys.stderr):  # what steps print is progress here; the result alone goes to stdout
        results = call(sweep, args)
    if is_main():
        show(results, args.json, [sweep_table(results)])
    if message := failures(results):
        raise UserError(message)


def _stages(text: str) -> list[str]:
    return [] if text == "none" else comma_separated(text)
