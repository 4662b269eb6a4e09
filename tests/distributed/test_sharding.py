"""The shipped sharding files on two processes end with the weights of one process, whatever micro-batches hold."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from proxyv.config import save_recipe
from proxyv.files import CHECKOUT
from proxyv.train import train
from tests.contract.method_settings import method_fields
from tests.distributed.test_two_processes import launch
from tests.small_runs import figures, page_recipe, stage

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles a C++ extension, and there is no g++"),
]

# Buckets of a few hundred numbers are exchanged as soon as gradients are ready.
SMALL = {"reduce_bucket_size": 300, "stage3_prefetch_bucket_size": 300, "stage3_param_persistence_threshold": 0}
# What changes in the shipped file, and the methods: one in the LLM's layers; one before the LLM and in its layers; one
# with several passes of the LLM for a batch, whose gradients ZeRO-3 exchanges in another way.
CASES = {
    "zero2": {"shipped": ({}, ["proxyv"]), "small": (SMALL, ["combination"])},
    "zero3": {"shipped": ({}, ["proxyv"]), "small": (SMALL, ["combination", "m3"])},
}
METHODS = ("proxyv", "combination", "m3")
# A shift of all keys, which the softmax cancels: its gradient is rounding, of which AdamW makes steps of full size.
NO_GRADIENT = "self_attn.k_proj.bias"
SCRIPT = """
import faulthandler
import sys

faulthandler.dump_traceback_later(400, exit=True)  # a process that waits for ever says where
from proxyv.config import load_recipe
from proxyv.train import train

for file in sys.argv[1:]:
    train(load_recipe(file))
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A recipe for each method, run on one process. Micro-batches of one sample: in most steps one of two processes
    has an image and the other has none."""
    folder = tmp_path_factory.mktemp("sharding")
    mixed = stage(["captions", "text"], micro_batch_size=1, steps=5)
    found = {}
    for name in METHODS:
        found[name] = replace(page_recipe(folder, method=method_fields(name), mixed=mixed), name=f"{name}-one")
        train(found[name])
    return folder, found


def sharded(folder, recipe, settings, name):
    """The file of the same recipe under another name, sharded."""
    (folder / f"{name}.json").write_text(json.dumps(settings))
    spec = replace(recipe.stages["mixed"], deepspeed=str(folder / f"{name}.json"))
    save_recipe(replace(recipe, name=name, stages={"mixed": spec}), folder / f"{name}.yaml")
    return folder / f"{name}.yaml"


@pytest.mark.parametrize("file", CASES)
def test_weights_equal_those_of_one_process(recipes, file):
    folder, ones = recipes
    shipped = json.loads((CHECKOUT / "configs" / "deepspeed" / f"{file}.json").read_text())
    pairs = {}  # run on two processes → run on one
    for kind, (changes, names) in CASES[file].items():
        settings = {**shipped, "zero_optimization": shipped["zero_optimization"] | changes}
        for name in names:
            pairs[sharded(folder, ones[name], settings, f"{name}-{file}-{kind}")] = ones[name].name
    (folder / "script.py").write_text(SCRIPT)
    done = launch([str(folder / "script.py"), *map(str, pairs)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    for two, one in pairs.items():
        expected, found = (folder / "runs" / name for name in (one, two.stem))
        for want, have in zip(figures(expected, "mixed"), figures(found, "mixed"), strict=True):
            assert have == pytest.approx(want, rel=1e-4, abs=1e-6), two.stem
        assert_same_weights(expected / "mixed", found / "mixed")


def assert_same_weights(expected, found):
    """All weights of two model folders agree to 2e-6, after steps of 1e-3."""
    wanted, here = (load_file(folder / "model.safetensors") for folder in (expected, found))
    assert wanted.keys() == here.keys()
    for key in (key for key in wanted if not key.endswith(NO_GRADIENT)):
        torch.testing.assert_close(here[key], wanted[key], atol=2e-6, rtol=0, msg=f"{found}: {key}")
