"""Evaluate a trained model by generation on a suite of benchmarks."""

from __future__ import annotations

import argparse

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
        show(result, args.json, suite_lines(result))
