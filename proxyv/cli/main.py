"""The command line: `proxyv <command>`, one thin function a command.

Exit codes: 0 on success, 2 on wrong input with one line on what to fix. Fields of a recipe are overridden by their
name: `proxyv train RECIPE --method.start_layer 16`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from tqdm import tqdm

from proxyv.cli_parser import make_parser
from proxyv.config import Recipe, load_recipe
from proxyv.errors import UserError
from proxyv.printing import flat_lines, show, suite_lines, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; never returns where the input is wrong (exit code 2)."""
    parser = make_parser(__doc__, {run.__name__.removeprefix("run_").replace("_", "-"): run for run in COMMANDS})
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help()
        return
    try:
        args.overrides = _overrides(rest)
        if args.overrides and not args.overridable:
            raise UserError(f"unknown option '{rest[0]}'; see `proxyv {args.command} --help`")
        args.run(args)
    except UserError as error:
        # Not print: a progress bar may stand on the current line.
        tqdm.write(f"proxyv {args.command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _overrides(rest: Sequence[str]) -> list[str]:
    """["--a.b", "1", "--c=2"] → ["a.b=1", "c=2"]."""
    found, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument '{word}'; write overrides as --field.subfield value")
        name = word[2:]
        if "=" not in name:
            if not words or words[0].startswith("--"):
                raise UserError(f"option '{word}' needs a value: {word} VALUE")
            name = f"{name}={words.pop(0)}"
        found.append(name)
    return found


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────


def run_quickstart(args: argparse.Namespace) -> None:
    """The whole pipeline at tiny size, on this machine: train, evaluate, measure, report."""
    from proxyv.experiments.quickstart import quickstart

    quickstart(Path(args.output), smoke=args.smoke, seed=args.seed, overrides=args.overrides)


def run_train(args: argparse.Namespace) -> None:
    """Train a recipe's stages in order."""
    from proxyv.train import train

    print(train(_recipe(args), resume=args.resume))


def run_eval(args: argparse.Namespace) -> None:
    """Evaluate a trained model by generation on a suite of benchmarks."""
    from proxyv.checkpoints.load import load_for_evaluation
    from proxyv.evaluation import evaluate_suite

    loaded = load_for_evaluation(args.model, args.device, args.dtype, args.attention, args.load_in)
    suite = args.suite or loaded.recipe.get("suite")
    data_root = args.data_root or loaded.recipe.get("data_root")
    if suite is None or data_root is None:
        raise UserError(f"{args.model}: has no recipe that names them; give --suite and --data_root")
    output = Path(args.output or loaded.run / "eval")
    result = evaluate_suite(
        loaded.model,
        loaded.processor,
        suite,
        data_root=data_root,
        output_dir=output,
        batch_size=args.batch_size,
        limit=args.limit,
        resume=args.resume,
        seed=args.seed,
        recipe=loaded.recipe,
    )
    show(result, args.json, suite_lines(result))


def run_sweep(args: argparse.Namespace) -> None:
    """Count, train and evaluate many recipes over several seeds, into one table; what is finished is kept."""
    from proxyv.experiments.sweep import sweep
    from proxyv.experiments.sweep_results import failures, sweep_table
    from proxyv.processes import is_main

    with redirect_stdout(sys.stderr):  # what steps print is progress here; the result alone goes to stdout
        results = sweep(
            args.paths,
            args.output,
            do=args.do.split(","),
            seeds=args.seeds,
            shared=[] if args.shared == "none" else args.shared.split(","),
            batch_size=args.batch_size,
            device=args.device,
            overrides=args.overrides,
        )
    if is_main():
        show(results, args.json, [sweep_table(results)])
    if told := failures(results):
        raise UserError(told)


def run_report(args: argparse.Namespace) -> None:
    """Tables and plots, from result files only."""
    from proxyv.report.make import make_report, write_into

    if args.into is not None:
        document, _, name = args.into.partition("#")
        print(write_into(document, name, args.paths))
        return
    for path in make_report(args.paths, args.output):
        print(path)


def run_profile(args: argparse.Namespace) -> None:
    """Count a prefill's FLOPs, vision tokens and memory, and parameters, by the real forward on the meta device."""
    from proxyv.profiling import profile_recipe

    result = profile_recipe(_recipe(args), crops=args.crops, text_tokens=args.text_tokens, compare=args.compare)
    write(args.output, result)
    show(result, args.json, flat_lines(result))


def run_bench(args: argparse.Namespace) -> None:
    """Time prefill, decoding and memory of several models side by side in one run, at every setting asked for."""
    from proxyv.profiling.bench import bench_recipes, bench_tables, read_recipes, read_result
    from proxyv.report.markdown import replace_table

    if all(word.endswith(".json") for word in args.recipes):  # of earlier runs
        results = [read_result(word) for word in args.recipes]
        tables = bench_tables(results, args.compare)
    else:
        result = bench_recipes(
            read_recipes(args.recipes, args.overrides),
            compare=None if args.compare == "none" else args.compare or "full",
            model_path=args.model,
            device=args.device,
            dtype=args.dtype,
            batch_sizes=args.batch_size,
            crops=args.crops or [None],
            attentions=args.attention or [None],
            text_tokens=args.text_tokens,
            new_tokens=args.new_tokens,
            warmup=args.warmup,
            repeats=args.repeats,
            splits=args.splits,
            fold=args.fold,
            peak=args.peak,
        )
        results, tables = [result], bench_tables([result])
        if args.output is not None:
            write(args.output, result)
            Path(args.output).with_suffix(".md").write_text(tables, encoding="utf-8")
    if args.into is not None:
        document, _, name = args.into.partition("#")
        replace_table(document, name, tables)
    show(results[0] if len(results) == 1 else {"results": results}, args.json, [tables.rstrip()])


def run_generate(args: argparse.Namespace) -> None:
    """Answer one question about one or more images."""
    from proxyv.checkpoints.load import load_for_evaluation
    from proxyv.data.images import BadImageError, open_image
    from proxyv.evaluation.answers import answer

    loaded = load_for_evaluation(args.model, args.device, args.dtype, args.attention, args.load_in)
    try:
        images = [open_image(Path(path)) for path in args.image]
    except BadImageError as error:
        raise UserError(f"--image: {error}; give another file") from error
    text = answer(loaded.model, loaded.processor, args.prompt, images, args.max_new_tokens)
    show({"answer": text}, args.json, [text])


def run_check_data(args: argparse.Namespace) -> None:
    """Walk through a recipe's data before training: files, images, marks, lengths, supervised tokens."""
    from proxyv.data import check_data

    report = check_data(_recipe(args))
    show(report.as_dict(), args.json, report.lines())
    if report.problems:
        raise UserError(f"{len(report.problems)} problem(s) in the data; they are listed above")


def run_show_sample(args: argparse.Namespace) -> None:
    """Print one training sample as the model sees it, supervised tokens marked."""
    from proxyv.data import show_sample

    print(show_sample(_recipe(args), args.data, args.index))


def run_convert(args: argparse.Namespace) -> None:
    """Turn a checkpoint of the authors' code, of LLaVA or of InternLM2 into a proxyv folder, file by file."""
    from proxyv.convert import convert

    converted = convert(args.source, args.target, tower=args.tower, onto=args.onto, chat_template=args.chat_template)
    for note in converted.notes:
        print(f"note: {note}", file=sys.stderr)
    print(converted.folder)


def run_export(args: argparse.Namespace) -> None:
    """Write a model as a folder for the Hugging Face hub: weights, processor, model card with recipe and results."""
    from proxyv.checkpoints.export import export

    print(export(args.model, args.target, hub_name=args.hub_name, license_id=args.license))


def run_merge(args: argparse.Namespace) -> None:
    """Merge a stage's LoRA adapters into the LLM: an ordinary model folder, its logits checked."""
    from proxyv.checkpoints.merge import merge_folder

    figures = merge_folder(args.source, args.target, args.dtype)
    difference, tolerance = figures["largest_difference"], figures["tolerance"]
    checked = f"merged logits differ from the adapted model's by {difference:.2g} at most; tolerance {tolerance:.2g}"
    show(figures, args.json, [args.target, checked])


def run_doctor(args: argparse.Namespace) -> None:
    """Say what is installed, on which machine, and whether the versions go together."""
    from proxyv.doctor import diagnose

    report = diagnose()
    show(report.as_dict(), args.json, report.lines())
    if report.faults:
        raise UserError("; ".join(report.faults))


COMMANDS = (
    run_quickstart,
    run_train,
    run_eval,
    run_sweep,
    run_report,
    run_profile,
    run_bench,
    run_generate,
    run_check_data,
    run_show_sample,
    run_convert,
    run_export,
    run_merge,
    run_doctor,
)


def _recipe(args: argparse.Namespace) -> Recipe:
    return load_recipe(args.recipe, args.overrides)


if __name__ == "__main__":
    main()
