"""Compare runs on the samples that they all answered: differences with intervals, and the answers that changed.

The first run is what all others are compared with. For each benchmark: the difference with its 95 % paired bootstrap
interval, McNemar's exact test where every sample's score is 0 or 1, and every sample whose score differs. Runs that
were measured in different ways (prompt, split, metrics, versions, samples) are refused, by the name of the field.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from proxyv.cli.options import add_benchmarks_dir, call
from proxyv.cli.printing import show
from proxyv.errors import UserError, one_line
from proxyv.results.comparison import ComparedBenchmark, Comparison, Flip, Pair

EXAMPLE = "runs/tiny-full runs/tiny-proxyv-l2 --page compare.html --data_root runs/quickstart/data"
PRINTS_FIGURES = True
OVERRIDABLE = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The runs, how many flips are printed, and the page."""
    parser.add_argument("paths", metavar="RUN", nargs="+", help="run folders, folders of results, or results")
    parser.add_argument("--flips", type=int, default=10, help="flips printed of two runs on a benchmark (default: 10)")
    parser.add_argument("--page", default=None, help="HTML file with the flips and their pictures")
    parser.add_argument("--data_root", default=None, help="folder of the benchmarks' files, for the page's pictures")
    add_benchmarks_dir(parser)


def run(args: argparse.Namespace) -> None:
    """Print the differences and the flips; write the page."""
    from pathlib import Path

    from proxyv.evaluation.comparing import compare_runs
    from proxyv.evaluation.flip_page import find_pictures, flip_page
    from proxyv.files import write_text

    if args.flips < 0:
        raise UserError(f"--flips: {args.flips} is too small; use 0 or more")
    if args.page is None and args.data_root is not None:
        raise UserError("--data_root: is for the pictures of the page; give --page too")
    comparison = compare_runs(args.paths)
    lines = list(_lines(comparison, args.flips))
    if args.page is not None:
        pictures, without = call(find_pictures, args, comparison)
        write_text(Path(args.page), flip_page(comparison, list(_lines(comparison, 0)), pictures))
        lines += [*(f"no pictures of {reason}" for reason in without), args.page]
    show(comparison, args.json, lines)


def _lines(comparison: Comparison, flips: int) -> Iterator[str]:
    first = comparison["runs"][0]["name"]
    for run in comparison["runs"]:
        if run["benchmarks_left_out"]:
            yield f"{run['name']}: {', '.join(run['benchmarks_left_out'])} left out: not every run has them"
    for name, benchmark in comparison["benchmarks"].items():
        for pair in benchmark["pairs"]:
            yield _summary(first, name, benchmark, pair)
            yield from (_flip_line(first, pair["other"], flip) for flip in pair["flips"][:flips])
            if flips and len(pair["flips"]) > flips:
                yield f"  … and {len(pair['flips']) - flips} more; see --flips, --page or --json"


def _summary(first: str, name: str, benchmark: ComparedBenchmark, pair: Pair) -> str:
    """One line: the scores, the difference and how sure it is."""
    before, after = benchmark["main_scores"][first], benchmark["main_scores"][pair["other"]]
    interval, test = pair["interval"], pair["mcnemar"]
    sure = (
        f"{benchmark['main']} is made of several answers together: no interval"
        if interval is None
        else f"95 % interval {interval['low']:+.2f} to {interval['high']:+.2f}"
    )
    changed = f"{pair['higher']} samples higher, {pair['lower']} lower of {benchmark['num_samples']}"
    tested = (
        f"no McNemar's test: a sample's {benchmark['score']} is not 0 or 1"
        if test is None
        else f"McNemar's exact test p = {test['p']:.2g}"
    )
    return (
        f"{name}: {first} → {pair['other']}: {benchmark['main']} {before:.2f} → {after:.2f}, "
        f"difference {pair['difference']:+.2f} ({sure}); {changed}; {tested}"
    )


def _flip_line(first: str, other: str, flip: Flip) -> str:
    """One sample: what is accepted, what each run said and its score."""
    answers = "; ".join(
        f"{name}: '{one_line(said['prediction'], 80)}' ({said['score']:.3g})"
        for name, said in ((first, flip["first"]), (other, flip["other"]))
    )
    return f"  {one_line(flip['id'], 60)}: accepted '{one_line(' | '.join(flip['references']), 80)}'; {answers}"
