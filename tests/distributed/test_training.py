"""Two processes end with the weights of one, whatever their micro-batches hold: data-parallel, and under the shipped
sharding files.

`--train_methods all` takes every method in every way, `--train_steps 200` compares the losses of longer runs.
"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from proxyv.files import CHECKOUT
from proxyv.train import train
from tests.commands import Group
from tests.contract.method_settings import SHIPPED, method_fields
from tests.distributed.processes import train_on_two
from tests.small_runs import figures, page_recipe, read_log, stage

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Buckets of a few hundred numbers are exchanged as soon as gradients are ready; large ones wait for all.
SMALL = {"reduce_bucket_size": 300, "stage3_prefetch_bucket_size": 300, "stage3_param_persistence_threshold": 0}
WAYS = {  # the shipped file, and what changes in it; None: each process has all weights
    "ddp": None,
    "zero2": ("zero2.json", {}),
    "zero2-small": ("zero2.json", SMALL),
    "zero3": ("zero3.json", {}),
    "zero3-small": ("zero3.json", SMALL),
}
# A method in the LLM's layers; one before the LLM and in its layers; one with several passes of the LLM for a batch,
# whose gradients ZeRO-3 exchanges in another way.
FEW = {
    "proxyv": ["ddp", "zero2", "zero3"],
    "combination": ["zero2-small"],
    "m3": ["zero3-small"],
}
# They draw in training, and two processes draw other numbers than one: those that shard must equal those that do not.
DRAWING = ("random", "vistog")
# Keys' biases shift all scores of a query alike, which the softmax cancels. Their gradient is rounding, of which AdamW
# makes steps of full size.
NO_GRADIENT = "self_attn.k_proj.bias"


# AdamW divides a gradient by its own size, so that the rounding of one whose terms nearly cancel becomes part of a full
# step. The tolerance is a five-hundredth of what five steps may move a weight.
RATE, TOLERANCE = 1e-4, 1e-6


def sharded(spec, way, folder):
    """The stage, trained in one of `WAYS`."""
    if WAYS[way] is None:
        return spec
    file, changes = WAYS[way]
    settings = json.loads((CHECKOUT / "configs" / "deepspeed" / file).read_text())
    settings["zero_optimization"] |= changes
    (folder / f"{way}.json").write_text(json.dumps(settings))
    return replace(spec, deepspeed=str(folder / f"{way}.json"))


def on_two(recipe, way, folder, suffix=""):
    """The same recipe for two processes, under another name."""
    stages = {name: sharded(spec, way, folder) for name, spec in recipe.stages.items()}
    return replace(recipe, name=f"{recipe.name}-{way}{suffix}", stages=stages)


def cut(recipe):
    """The same recipe under another name, with checkpoints."""
    stages = {**recipe.stages, "mixed": replace(recipe.stages["mixed"], save_steps=2)}
    return replace(recipe, name=f"{recipe.name}-cut", stages=stages)


def mixed(steps, **fields):
    """A stage whose micro-batches are one sample: in most steps one of two processes has an image, and the other has
    none."""
    return stage(["captions", "text"], **{"micro_batch_size": 1, "steps": steps, "learning_rate": RATE, **fields})


def largest_difference(expected, found):
    """(the largest difference between weights of two model folders, its name)."""
    wanted, here = (load_file(folder / "model.safetensors") for folder in (expected, found))
    assert wanted.keys() == here.keys()
    names = [name for name in wanted if not name.endswith(NO_GRADIENT)]
    return max(((wanted[name] - here[name]).abs().max().item(), name) for name in names)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pytestconfig):
    """Everything is trained: (folder of runs, pairs of a recipe and the same for two processes, pairs of a recipe and
    the same that was cut behind a checkpoint and resumed)."""
    folder, steps, methods = (
        tmp_path_factory.mktemp("two"),
        *map(pytestconfig.getoption, ("train_steps", "train_methods")),
    )
    cases = FEW | dict.fromkeys(SHIPPED if methods == "all" else filter(None, methods.split(",")), list(WAYS))
    ones = {name: replace(page_recipe(folder, method_fields(name), mixed=mixed(steps)), name=name) for name in cases}
    ones["proxyv"].stages["adapter"] = mixed(2, train=["projector", "newline", "method"])
    pairs = [(ones[name], on_two(ones[name], way, folder)) for way in WAYS for name in cases if way in cases[name]]
    resumed = [(two, cut(two)) for _, two in pairs if two.name in ("proxyv-zero2", "proxyv-zero3")]
    # What text needs no image for, and what is frozen but sharded; and layers that run again for their gradients.
    llm = replace(page_recipe(folder, {"name": "full"}, mixed=mixed(steps, train=["llm"])), name="llm")
    pairs.append((llm, on_two(llm, "zero3-small", folder)))
    again = on_two(ones["proxyv"], "zero3-small", folder, "-checkpointing")
    checkpointing = {"mixed": replace(again.stages["mixed"], gradient_checkpointing=True)}
    pairs.append((ones["proxyv"], replace(again, stages=checkpointing)))

    for recipe in (*ones.values(), llm):
        train(recipe)
    recipes = [two for _, two in pairs] + [broken for _, broken in resumed]
    # Data-parallel runs come after sharded ones too: nothing of DeepSpeed may stay behind. But ZeRO-3 comes last, since
    # from then on a process computes linear layers otherwise, in the last bit.
    recipes.sort(key=lambda recipe: "zero3" in recipe.name)
    train_on_two(folder, *recipes, stop_at={broken.name: 3 for _, broken in resumed})
    for _, broken in resumed:
        assert len(read_log(folder / "runs" / broken.name, "mixed")) == 3
        go_on = Group(["train", f"{broken.name}.yaml", "--resume"], folder, processes=2)
        assert go_on.wait() == [0, 0], go_on.printed()[-3000:]
    return folder / "runs", pairs, resumed


def test_two_processes_end_with_the_weights_of_one(runs):
    folder, pairs, _ = runs
    for one, two in pairs:
        expected = folder / (f"{one.name}-ddp" if one.name in DRAWING else one.name)
        for name in two.stages:
            losses = [[entry["loss"] for entry in read_log(run, name)] for run in (expected, folder / two.name)]
            assert len(losses[0]) == two.stages[name].steps
            assert losses[1] == pytest.approx(losses[0], abs=1e-4), two.name
            if two.stages[name].steps <= 5:  # rounding grows
                difference, weight = largest_difference(expected / name, folder / two.name / name)
                assert difference < TOLERANCE, (two.name, weight)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(runs):
    folder, _, resumed = runs
    assert len(resumed) == 2
    for whole, broken in resumed:
        for name in whole.stages:
            assert figures(folder / broken.name, name) == figures(folder / whole.name, name)
            weights = [load_file(folder / run.name / name / "model.safetensors") for run in (whole, broken)]
            assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items()), broken.name
