"""Walk through a recipe's data before training: files, images, marks, lengths, supervised tokens."""

from __future__ import annotations

import argparse

from proxyv.cli.options import EXAMPLE_RECIPE, add_recipe, read_recipe
from proxyv.cli.printing import show
from proxyv.errors import UserError

EXAMPLE = f"{EXAMPLE_RECIPE} --data_root data"
PRINTS_FIGURES = True
OVERRIDABLE = True
add_options = add_recipe


def run(args: argparse.Namespace) -> None:
    """Print what was found, and fail where there are problems."""
    from proxyv.data import check_data

    report = check_data(read_recipe(args))
    show(report.as_dict(), args.json, report.lines())
    if report.problems:
        raise UserError(f"{len(report.problems)} problem(s) in the data; they are listed above")
