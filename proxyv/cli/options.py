"""Options that several commands share, and how options reach the function that a command runs.

Every option is stated once, where a command adds it. Its default is that of the function it is for; an option has a
default of its own only where no function has one.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from proxyv.config import Recipe, load_recipe

Result = TypeVar("Result")
EXAMPLE_RECIPE = "configs/recipes/vicuna-7b-proxyv-l12.yaml"


def call(function: Callable[..., Result], args: argparse.Namespace, *given: Any, **fixed: Any) -> Result:
    """Call `function` with what is `given` and `fixed`, and with every option that has the name of another parameter.

    An option that was left out is not in `args`, so that the function's own default holds.
    """
    parameters = inspect.signature(function).parameters
    open_names = list(parameters)[len(given) :]
    options = {name: value for name, value in vars(args).items() if name in open_names}
    return function(*given, **{**options, **fixed})


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe, read by `read_recipe`."""
    parser.add_argument("recipe", help="recipe YAML; any of its fields may be overridden by --field.subfield value")


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with the command line's overrides. Raises UserError for a faulty one."""
    return load_recipe(args.recipe, args.overrides)


def add_model(parser: argparse.ArgumentParser) -> None:
    """A trained model and how it is loaded, by `load_for_evaluation`."""
    parser.add_argument("model", help="run folder or model folder")
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    parser.add_argument("--dtype", help="auto (as saved), float32, bfloat16 or float16")
    parser.add_argument("--attention", help="attention back-end (default: sdpa, or eager where sdpa cannot)")
    parser.add_argument("--load_in", help="8bit or 4bit: quantise the LLM by bitsandbytes (default: do not)")


def add_benchmarks_dir(parser: argparse.ArgumentParser) -> None:
    """Where benchmarks and suites are looked up first."""
    parser.add_argument("--benchmarks_dir", help="folder of benchmark and suite YAML files beside the shipped ones")


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Samples generated at once."""
    parser.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N",
        help="samples answered at once, or auto: 8 on a CPU, else up to 64 that fit (default: 1)",
    )


def _batch_size(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor auto") from None


def add_into(parser: argparse.ArgumentParser, text: str) -> None:
    """A table's place in a document, as (document, name of the table); None where it is left out."""
    parser.add_argument("--into", metavar="FILE#NAME", type=_document_and_name, default=None, help=text)


def _document_and_name(place: str) -> tuple[str, str]:
    document, _, name = place.partition("#")
    return document, name


def comma_separated(text: str) -> list[str]:
    """ "a,b" → ["a", "b"]."""
    return text.split(",")
