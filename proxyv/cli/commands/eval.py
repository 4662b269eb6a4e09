"""Evaluate a trained model by generation on a suite of benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxyv.cli.options import add_batch_size, add_benchmarks_dir, add_model, call
from proxyv.cli.printing import show, suite_lines
from proxyv.errors import UserError

EXAMPLE = "runs/tiny-full --suite synthetic --batch_size 16"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model, the suite, and how much of it."""
    add_model(parser)
    parser.add_argument("--suite", default=None, help="name or YAML file (default: the recipe's)")
    parser.add_argument("--data_root", default=None, help="folder of the benchmarks' files (default: the recipe's)")
    add_benchmarks_dir(parser)
    parser.add_argument("--output", default=None, help="folder for results (default: eval/ in the run folder)")
    add_batch_size(parser)
    parser.add_argument("--limit", type=int, help="first samples of each benchmark only")
    parser.add_argument("--resume", action="store_true", help="keep the samples that are already there")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        default=False,
        help="on two generated rows of each benchmark: needs no data, and no table shows it",
    )


def run(args: argparse.Namespace) -> None:
    """Check the suite and its data, load the model, evaluate it, and print each benchmark's score and the suite's.

    Under torchrun all processes answer, and the main one prints.
    """
    from proxyv.checkpoints.load import load_for_evaluation, recipe_of
    from proxyv.evaluation import check_suite, evaluate_suite, together

    with together() as team:
        recipe = recipe_of(args.model)
        suite = args.suite or recipe.get("suite")
        data_root = args.data_root or recipe.get("data_root")
        if args.dry_run:
            data_root = _prepare_dry_run(args)
        if not isinstance(suite, str) or not isinstance(data_root, str):
            raise UserError(f"{args.model}: has no recipe that names them; give --suite and --data_root")
        checked = call(check_suite, args, suite, data_root)
        loaded = call(load_for_evaluation, args, args.model)
        result = call(
            evaluate_suite,
            args,
            loaded.model,
            loaded.processor,
            checked,
            data_root=data_root,
            output_dir=args.output or loaded.run / "eval",
            recipe=loaded.recipe,
        )
    if team.is_main:
        notes = [f"a dry run, on generated rows in {data_root}: the figures mean nothing"] if args.dry_run else []
        show(result, args.json, [*suite_lines(result), *notes])


def _prepare_dry_run(args: argparse.Namespace) -> str:
    """Settle limit and output of a dry run; returns the folder of its data."""
    from proxyv.checkpoints.load import run_folder
    from proxyv.evaluation.dry_run import FOLDER, ROWS

    if args.data_root is not None:
        raise UserError("--data_root: a dry run makes its own data; leave it out")
    args.output = str(Path(args.output or run_folder(args.model) / "eval") / FOLDER)
    args.limit = getattr(args, "limit", ROWS)
    return str(Path(args.output) / "data")
