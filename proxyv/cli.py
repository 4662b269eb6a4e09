"""The command line: `proxyv <command>`, one thin function a command.

Exit codes: 0 on success, 2 on wrong input with one line on what to mend. Fields of a recipe are overridden by their
name: `proxyv train RECIPE --method.start_layer 16`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from tqdm import tqdm

from proxyv.config import Recipe, load_recipe
from proxyv.errors import UserError
from proxyv.printing import flat_lines, show, suite_lines, write

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; never returns where the input is wrong (exit code 2)."""
    parser = _parser()
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
    """The whole mission in small, on this machine: train, evaluate, measure, report."""
    from proxyv.quickstart import quickstart

    quickstart(Path(args.output), smoke=args.smoke, seed=args.seed, overrides=args.overrides)


def run_train(args: argparse.Namespace) -> None:
    """Train a recipe's stages in order."""
    from proxyv.train import train

    print(train(_recipe(args), resume=args.resume))


def run_eval(args: argparse.Namespace) -> None:
    """Evaluate a trained model by generation on a suite of benchmarks."""
    from proxyv.evaluation import evaluate_suite
    from proxyv.evaluation.loading import load_for_evaluation

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
    from proxyv.sweep import failures, sweep, sweep_table
    from proxyv.train.ranks import is_main

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
    from proxyv.report import make_report, write_into

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
    from proxyv.report import replace_table

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
    """Answer one question about one or more pictures."""
    from proxyv.evaluation.loading import answer, load_for_evaluation

    loaded = load_for_evaluation(args.model, args.device, args.dtype, args.attention, args.load_in)
    text = answer(loaded, args.prompt, args.image, args.max_new_tokens)
    show({"answer": text}, args.json, [text])


def run_check_data(args: argparse.Namespace) -> None:
    """Walk through a recipe's data before training: files, pictures, marks, lengths, supervised tokens."""
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
    """Turn a checkpoint of the authors' code, of LLaVA or of InternLM2 into a folder of ours, file by file."""
    from proxyv.convert import convert

    converted = convert(args.source, args.target, tower=args.tower, onto=args.onto, chat_template=args.chat_template)
    for note in converted.notes:
        print(f"note: {note}", file=sys.stderr)
    print(converted.folder)


def run_export(args: argparse.Namespace) -> None:
    """Write a model as a folder for the Hugging Face hub: weights, processor, model card with recipe and results."""
    from proxyv.export import export

    print(export(args.model, args.target, hub_name=args.hub_name, license_id=args.license))


def run_merge(args: argparse.Namespace) -> None:
    """Merge a stage's LoRA adapters into the LLM: an ordinary model folder, its logits checked."""
    from proxyv.adapters.merge import merge_folder

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


# ── the parser ──────────────────────────────────────────────────────────────────────────────────────────────────────

RECIPE_EXAMPLE = "configs/recipes/vicuna-7b-proxyv-l12.yaml"


Add = Callable[..., argparse.ArgumentParser]  # see `add` in `_parser`


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proxyv", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="command")

    def add(name: str, run: Command, example: str, figures: bool = False) -> argparse.ArgumentParser:
        """A command with its help from `run`; `figures`: it can print JSON."""
        text = (run.__doc__ or "").strip()
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"example: proxyv {name} {example}", allow_abbrev=False
        )
        sub.set_defaults(run=run, overridable=False)
        if figures:
            sub.add_argument("--json", action="store_true", help="print figures as JSON")
        return sub

    for group in (_add_training, _add_evaluation, _add_measuring, _add_checkpoints):
        group(add)
    add("doctor", run_doctor, "--json", figures=True)
    return parser


def _add_training(add: Add) -> None:
    sub = add("quickstart", run_quickstart, "--output runs/quickstart")
    sub.set_defaults(overridable=True)
    sub.add_argument("--output", default="runs/quickstart", help="folder for data, runs and the report")
    sub.add_argument("--smoke", action="store_true", help="a minute's version that learns nothing")
    sub.add_argument("--seed", type=int, default=0)

    sub = add("train", run_train, f"{RECIPE_EXAMPLE} --data_root data --stages.finetune.micro_batch_size 2")
    _add_recipe(sub)
    sub.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")

    sub = add("sweep", run_sweep, "configs/recipes/tiny-*.yaml --seeds 0 1 2 --shared tower,text,caption", figures=True)
    sub.set_defaults(overridable=True)
    sub.add_argument("paths", nargs="+", help="recipe YAML files, or folders of them; --field.subfield value for all")
    sub.add_argument("--output", default="runs/sweep", help="folder for runs, sweep.json, table and plot")
    sub.add_argument("--do", default="profile,train,eval", help="steps, comma-separated (default: profile,train,eval)")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the training (default: 0)")
    sub.add_argument("--shared", default="none", help="stages to train once per seed for all recipes (default: none)")
    sub.add_argument("--batch_size", type=int, default=1, help="samples at once in the evaluation")
    sub.add_argument("--device", help="of the evaluation: cpu, cuda, … (default: cuda where there is one)")

    sub = add("check-data", run_check_data, f"{RECIPE_EXAMPLE} --data_root data", figures=True)
    _add_recipe(sub)

    sub = add("show-sample", run_show_sample, f"{RECIPE_EXAMPLE} --data llava_next --index 3")
    _add_recipe(sub)
    sub.add_argument("--data", help="name of the data set in the recipe (default: its first)")
    sub.add_argument("--index", type=int, default=0)


def _add_evaluation(add: Add) -> None:
    sub = add("eval", run_eval, "runs/tiny-full --suite synthetic --batch_size 16", figures=True)
    _add_model(sub)
    sub.add_argument("--suite", help="name or YAML file (default: the recipe's)")
    sub.add_argument("--data_root", help="folder of the benchmarks' files (default: the recipe's)")
    sub.add_argument("--output", help="folder for results (default: eval/ in the run folder)")
    sub.add_argument("--batch_size", type=int, default=1)
    sub.add_argument("--limit", type=int, help="first samples of each benchmark only")
    sub.add_argument("--resume", action="store_true", help="keep the samples that are already there")
    sub.add_argument("--seed", type=int, default=0)

    sub = add("generate", run_generate, 'runs/tiny-full --image page.png --prompt "value of C"', figures=True)
    _add_model(sub)
    sub.add_argument("--image", action="append", default=[], help="picture file; may be given several times")
    sub.add_argument("--prompt", required=True, help="the question; <image> marks where the pictures stand")
    sub.add_argument("--max_new_tokens", type=int, default=128)

    sub = add("report", run_report, "runs/tiny-full runs/tiny-proxyv-l2 --output report")
    sub.add_argument("paths", nargs="+", help="run folders or result files")
    sub.add_argument("--output", default="report", help="folder for tables and plots")
    sub.add_argument("--into", metavar="FILE#NAME", help="instead: renew the table of that name in a document")


def _add_measuring(add: Add) -> None:
    sub = add("profile", run_profile, f"{RECIPE_EXAMPLE} --compare full --json", figures=True)
    _add_recipe(sub)
    _add_shape(sub)

    sub = add("bench", run_bench, f"{RECIPE_EXAMPLE} pyramiddrop '{{name: random, tokens: 144}}' --peak", figures=True)
    sub.set_defaults(overridable=True)
    sub.add_argument(
        "recipes",
        nargs="+",
        help="recipe YAML files (--field.subfield value for all); behind the first also methods on its LLM and tower, "
        "by name or as {name: …, field: …}. Or results of earlier runs (.json), to print their tables",
    )
    sub.add_argument("--compare", help="what ratios are to: a method, a recipe file, or none (default: full)")
    sub.add_argument("--crops", type=int, nargs="+", help="of the one picture (default: the most the recipe allows)")
    sub.add_argument("--batch_size", type=int, nargs="+", default=[1])
    sub.add_argument("--attention", nargs="+", help="eager, sdpa, flex_attention, … (default: the first recipe's)")
    sub.add_argument("--text_tokens", type=int, default=50)
    sub.add_argument("--new_tokens", type=int, default=10, help="decoding steps")
    sub.add_argument("--warmup", type=int, default=2, help="rounds that do not count")
    sub.add_argument("--repeats", type=int, default=10, help="rounds of all models in turn")
    sub.add_argument("--splits", type=int, default=3, help="rounds that also split a prefill into its parts")
    sub.add_argument("--peak", action="store_true", help="measure the device's rate of matrix products as well")
    sub.add_argument("--fold", default="no", help="merge the methods' linear maps: yes, no, or both to compare")
    sub.add_argument("--model", help="folder of trained weights for the first recipe (default: random weights)")
    sub.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    sub.add_argument("--output", help="JSON file for the result; its tables go into a .md beside it")
    sub.add_argument("--into", metavar="FILE#NAME", help="also renew the table of that name in a document")


def _add_checkpoints(add: Add) -> None:
    sub = add("convert", run_convert, "proxyv_vicuna_7b_layer12 models/vicuna-7b-proxyv-l12")
    sub.add_argument("source", help="folder or hub id of a checkpoint, or a stage-1 file (mm_projector.bin)")
    sub.add_argument("target", help="folder to write; InternLM2 becomes a Llama folder for llm.pretrained")
    sub.add_argument("--tower", help="folder or hub id of the vision tower (default: what the checkpoint names)")
    sub.add_argument("--onto", metavar="RECIPE", help="for a stage-1 file: the recipe that names LLM, tower and method")
    sub.add_argument("--chat_template", help="a chat template of ours (default: the one the family was trained with)")

    sub = add("merge", run_merge, "runs/vicuna-7b-lora/finetune models/vicuna-7b-lora", figures=True)
    sub.add_argument("source", help="adapter folder, or a run whose last stage trained adapters")
    sub.add_argument("target", help="folder to write")
    sub.add_argument("--dtype", default="float32", help="precision to save in: float32, bfloat16 or float16")

    sub = add("export", run_export, "runs/tiny-proxyv-l2 hub/tiny-proxyv-l2 --hub-name me/tiny-proxyv-l2")
    sub.description = f"{sub.description} Loading it needs proxyv installed; no code travels with the folder."
    sub.add_argument("model", help="run folder or model folder")
    sub.add_argument("target", help="folder to write; must be empty or absent")
    sub.add_argument("--hub-name", dest="hub_name", metavar="OWNER/NAME", help="name on the hub, for the model card")
    sub.add_argument("--license", default="other", help="the weights' licence as the hub spells it (default: other)")


def _add_recipe(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(overridable=True)
    sub.add_argument("recipe", help="recipe YAML; any of its fields may be overridden by --field.subfield value")


def _add_shape(sub: argparse.ArgumentParser, compare: str | None = None) -> None:
    sub.add_argument("--compare", default=compare, help="'full', or another recipe, to compare with")
    sub.add_argument("--crops", type=int, help="crops of the one picture (default: the most the recipe allows)")
    sub.add_argument("--text_tokens", type=int, default=50)
    sub.add_argument("--output", help="JSON file to write the figures to")


def _add_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="run folder or model folder")
    sub.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    sub.add_argument("--dtype", default="auto", help="auto (as saved), float32, bfloat16 or float16")
    sub.add_argument("--attention", default="sdpa", help="attention back-end: sdpa or eager")
    sub.add_argument("--load_in", help="8bit or 4bit: quantise the LLM by bitsandbytes (default: do not)")


# ── small helpers ───────────────────────────────────────────────────────────────────────────────────────────────────


def _recipe(args: argparse.Namespace) -> Recipe:
    return load_recipe(args.recipe, args.overrides)


if __name__ == "__main__":
    main()
