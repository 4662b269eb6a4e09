"""Score stored answers again, without the model: after a change of a metric or of a benchmark's scoring.

Prints each benchmark's main score before and now, and that of each suite whose results lie beside; the files change
with --write alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from proxyv.cli.options import add_benchmarks_dir, call
from proxyv.cli.printing import show
from proxyv.report.markdown import ABSENT

EXAMPLE = "runs/tiny-full/eval --write"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which results, by which benchmarks, and whether to write."""
    parser.add_argument("result", help="a benchmark's .jsonl or .json, or a folder of them such as a run's eval/")
    add_benchmarks_dir(parser)
    parser.add_argument("--write", action="store_true", help="rewrite answers, results and suites with the new scores")


def run(args: argparse.Namespace) -> None:
    """Print the scores before and now."""
    from proxyv.evaluation import rescore_results

    result = call(rescore_results, args)
    lines = [
        f"{name}: {of['main']} {_change(of)} ({of['num_samples']} samples)" for name, of in result["benchmarks"].items()
    ]
    lines += [f"{of['title']}: {of['score_name']} {_change(of)}" for of in result["suites"].values()]
    lines.append("files rewritten" if result["written"] else "nothing written; --write rewrites the files")
    show(result, args.json, lines)


def _change(scores: Mapping[str, Any]) -> str:
    before = ABSENT if scores["before"] is None else f"{scores['before']:.2f}"
    return f"{before} → {scores['now']:.2f}"
