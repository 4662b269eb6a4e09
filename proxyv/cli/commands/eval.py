"""Evaluate a trained model by generation on a suite of benchmarks.

With `--engine lmms-eval` lmms-eval itself asks and scores: its tasks, named by --tasks, on local files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from proxyv.cli.options import add_batch_size, add_benchmarks_dir, add_model, call, comma_separated
from proxyv.cli.printing import lmms_eval_lines, show, suite_lines
from proxyv.errors import UserError

OURS, LMMS_EVAL = ENGINES = ("proxyv", "lmms-eval")
EXAMPLE = "runs/tiny-full --suite synthetic --batch_size 16"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model, the suite, and how much of it."""
    add_model(parser)
    parser.add_argument("--engine", choices=ENGINES, default=OURS, help="who asks and scores (default: proxyv)")
    parser.add_argument(
        "--tasks",
        type=comma_separated,
        default=None,
        help="of lmms-eval: NAME,… or NAME=FILES,… (a file, folder or glob below --data_root; default: where a copy of "
        "the task's repository on the hub lies there)",
    )
    parser.add_argument("--suite", default=None, help="name or YAML file (default: the recipe's)")
    parser.add_argument("--data_root", default=None, help="folder of the benchmarks' files (default: the recipe's)")
    add_benchmarks_dir(parser)
    parser.add_argument(
        "--output", default=None, help="folder for results (default: eval/ in the run folder, lmms-eval/ for lmms-eval)"
    )
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
    """Check suite or tasks and their data, load the model, evaluate it, and print the scores.

    Under torchrun all processes answer, and the main one prints.
    """
    others = ("suite", "benchmarks_dir", "resume", "dry_run") if args.engine == LMMS_EVAL else ("tasks",)
    for name in others:
        if getattr(args, name, None):
            raise UserError(f"--{name}: is not for --engine {args.engine}; leave it out")
    _run_lmms_eval(args) if args.engine == LMMS_EVAL else _run_suite(args)


def _run_suite(args: argparse.Namespace) -> None:
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


def _run_lmms_eval(args: argparse.Namespace) -> None:
    from proxyv.checkpoints.load import load_for_evaluation, recipe_of
    from proxyv.evaluation import together
    from proxyv.evaluation.lmms_eval.engine import evaluate_tasks, load_tasks

    if args.tasks is None:
        raise UserError("--tasks: name tasks of lmms-eval, as in --tasks docvqa_val,chartqa")
    with together() as team:
        data_root = args.data_root or recipe_of(args.model).get("data_root")
        if not isinstance(data_root, str):
            raise UserError(f"{args.model}: has no recipe that names the data's folder; give --data_root")
        tasks = call(load_tasks, args, args.tasks, data_root)
        loaded = call(load_for_evaluation, args, args.model)
        results = call(
            evaluate_tasks,
            args,
            loaded.model,
            loaded.processor,
            tasks,
            output_dir=args.output or loaded.run / LMMS_EVAL,
            recipe=loaded.recipe,
        )
    if team.is_main:
        show(results, args.json, lmms_eval_lines(results))
