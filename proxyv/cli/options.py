"""The options of every command of `proxyv`, each with an example."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

Command = Callable[[argparse.Namespace], None]
RECIPE_EXAMPLE = "configs/recipes/vicuna-7b-proxyv-l12.yaml"
Add = Callable[..., argparse.ArgumentParser]  # see `add` in `make_parser`


def make_parser(description: str | None, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of `proxyv`; the function of a command gives its help, and is `run` of what is parsed."""
    parser = argparse.ArgumentParser(prog="proxyv", description=description, allow_abbrev=False)
    known = parser.add_subparsers(dest="command", metavar="command")

    def add(name: str, example: str, figures: bool = False) -> argparse.ArgumentParser:
        """A command; `figures`: it can print JSON."""
        text = (commands[name].__doc__ or "").strip()
        sub = known.add_parser(
            name, help=text, description=text, epilog=f"example: proxyv {name} {example}", allow_abbrev=False
        )
        sub.set_defaults(run=commands[name], overridable=False)
        if figures:
            sub.add_argument("--json", action="store_true", help="print figures as JSON")
        return sub

    for group in (_add_training, _add_evaluation, _add_measuring, _add_checkpoints):
        group(add)
    add("doctor", "--json", figures=True)
    return parser


def _add_training(add: Add) -> None:
    sub = add("quickstart", "--output runs/quickstart")
    sub.set_defaults(overridable=True)
    sub.add_argument("--output", default="runs/quickstart", help="folder for data, runs and the report")
    sub.add_argument("--smoke", action="store_true", help="a minute's version that learns nothing")
    sub.add_argument("--seed", type=int, default=0)

    sub = add("train", f"{RECIPE_EXAMPLE} --data_root data --stages.finetune.micro_batch_size 2")
    _add_recipe(sub)
    sub.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")

    sub = add("sweep", "configs/recipes/tiny-*.yaml --seeds 0 1 2 --shared tower,text,caption", figures=True)
    sub.set_defaults(overridable=True)
    sub.add_argument("paths", nargs="+", help="recipe YAML files, or folders of them; --field.subfield value for all")
    sub.add_argument("--output", default="runs/sweep", help="folder for runs, sweep.json, table and plot")
    sub.add_argument("--do", default="profile,train,eval", help="steps, comma-separated (default: profile,train,eval)")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the training (default: 0)")
    sub.add_argument("--shared", default="none", help="stages to train once per seed for all recipes (default: none)")
    sub.add_argument("--batch_size", type=int, default=1, help="samples at once in the evaluation")
    sub.add_argument("--device", help="of the evaluation: cpu, cuda, … (default: cuda where there is one)")

    sub = add("check-data", f"{RECIPE_EXAMPLE} --data_root data", figures=True)
    _add_recipe(sub)

    sub = add("show-sample", f"{RECIPE_EXAMPLE} --data llava_next --index 3")
    _add_recipe(sub)
    sub.add_argument("--data", help="name of the data set in the recipe (default: its first)")
    sub.add_argument("--index", type=int, default=0)


def _add_evaluation(add: Add) -> None:
    sub = add("eval", "runs/tiny-full --suite synthetic --batch_size 16", figures=True)
    _add_model(sub)
    sub.add_argument("--suite", help="name or YAML file (default: the recipe's)")
    sub.add_argument("--data_root", help="folder of the benchmarks' files (default: the recipe's)")
    sub.add_argument("--output", help="folder for results (default: eval/ in the run folder)")
    sub.add_argument("--batch_size", type=int, default=1)
    sub.add_argument("--limit", type=int, help="first samples of each benchmark only")
    sub.add_argument("--resume", action="store_true", help="keep the samples that are already there")
    sub.add_argument("--seed", type=int, default=0)

    sub = add("generate", 'runs/tiny-full --image page.png --prompt "value of C"', figures=True)
    _add_model(sub)
    sub.add_argument("--image", action="append", default=[], help="image file; may be given several times")
    sub.add_argument("--prompt", required=True, help="the question; <image> marks where the images stand")
    sub.add_argument("--max_new_tokens", type=int, default=128)

    sub = add("report", "runs/tiny-full runs/tiny-proxyv-l2 --output report")
    sub.add_argument("paths", nargs="+", help="run folders or result files")
    sub.add_argument("--output", default="report", help="folder for tables and plots")
    sub.add_argument("--into", metavar="FILE#NAME", help="instead: update the table of that name in a document")


def _add_measuring(add: Add) -> None:
    sub = add("profile", f"{RECIPE_EXAMPLE} --compare full --json", figures=True)
    _add_recipe(sub)
    _add_shape(sub)

    sub = add("bench", f"{RECIPE_EXAMPLE} pyramiddrop '{{name: random, tokens: 144}}' --peak", figures=True)
    sub.set_defaults(overridable=True)
    sub.add_argument(
        "recipes",
        nargs="+",
        help="recipe YAML files (--field.subfield value for all); behind the first also methods on its LLM and tower, "
        "by name or as {name: …, field: …}. Or results of earlier runs (.json), to print their tables",
    )
    sub.add_argument("--compare", help="what ratios are to: a method, a recipe file, or none (default: full)")
    sub.add_argument("--crops", type=int, nargs="+", help="of the one image (default: the most the recipe allows)")
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
    sub.add_argument("--into", metavar="FILE#NAME", help="also update the table of that name in a document")


def _add_checkpoints(add: Add) -> None:
    sub = add("convert", "proxyv_vicuna_7b_layer12 models/vicuna-7b-proxyv-l12")
    sub.add_argument("source", help="folder or hub id of a checkpoint, or a stage-1 file (mm_projector.bin)")
    sub.add_argument("target", help="folder to write; InternLM2 becomes a Llama folder for llm.pretrained")
    sub.add_argument("--tower", help="folder or hub id of the vision tower (default: what the checkpoint names)")
    sub.add_argument("--onto", metavar="RECIPE", help="for a stage-1 file: the recipe that names LLM, tower and method")
    sub.add_argument("--chat_template", help="a shipped chat template (default: the one the family was trained with)")

    sub = add("merge", "runs/vicuna-7b-lora/finetune models/vicuna-7b-lora", figures=True)
    sub.add_argument("source", help="adapter folder, or a run whose last stage trained adapters")
    sub.add_argument("target", help="folder to write")
    sub.add_argument("--dtype", default="float32", help="precision to save in: float32, bfloat16 or float16")

    sub = add("export", "runs/tiny-proxyv-l2 hub/tiny-proxyv-l2 --hub-name me/tiny-proxyv-l2")
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
    sub.add_argument("--crops", type=int, help="crops of the one image (default: the most the recipe allows)")
    sub.add_argument("--text_tokens", type=int, default=50)
    sub.add_argument("--output", help="JSON file to write the figures to")


def _add_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="run folder or model folder")
    sub.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    sub.add_argument("--dtype", default="auto", help="auto (as saved), float32, bfloat16 or float16")
    sub.add_argument("--attention", default="sdpa", help="attention back-end: sdpa or eager")
    sub.add_argument("--load_in", help="8bit or 4bit: quantise the LLM by bitsandbytes (default: do not)")
