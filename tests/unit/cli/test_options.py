"""Options reach the function that a command runs; what is left out keeps the function's default."""

import functools
import importlib
from argparse import Namespace
from pathlib import Path

import pytest

from proxyv.cli import main
from proxyv.cli.main import parse_overrides
from proxyv.cli.options import call
from proxyv.errors import UserError

VICUNA = "configs/recipes/vicuna-7b-full.yaml"


def test_overrides():
    assert parse_overrides(["--a.b", "1", "--c=2", "--d=x=y"]) == ["a.b=1", "c=2", "d=x=y"]
    assert parse_overrides(["--a", "-1"]) == ["a=-1"]
    with pytest.raises(UserError, match="needs a value"):
        parse_overrides(["--a", "--b", "1"])


def test_call_takes_options_by_name_and_leaves_defaults():
    def function(first, second=2, *, third=3, fourth=4):
        return first, second, third, fourth

    args = Namespace(first="not this", third="c", fourth="d", other="x")
    assert call(function, args, "a", fourth="fixed") == ("a", 2, "c", "fixed")


CASES = [
    (["quickstart"], "experiments.quickstart.quickstart", {"output": Path("runs/quickstart"), "overrides": []}),
    (
        ["quickstart", "--smoke", "--seed", "3", "--output", "q", "--pages.seed", "1"],
        "experiments.quickstart.quickstart",
        {"output": Path("q"), "smoke": True, "seed": 3, "overrides": ["pages.seed=1"]},
    ),
    (["train", VICUNA, "--resume"], "train.train", {"resume": True}),
    (
        ["sweep", "a", "b", "--do", "profile,eval", "--seeds", "1", "2", "--shared", "x,y", "--device", "cpu"],
        "experiments.sweep.sweep",
        {
            "paths": ["a", "b"],
            "output": "runs/sweep",
            "do": ["profile", "eval"],
            "seeds": [1, 2],
            "shared": ["x", "y"],
            "device": "cpu",
            "overrides": [],
        },
    ),
    (
        ["sweep", "a", "--shared", "none"],
        "experiments.sweep.sweep",
        {"paths": ["a"], "output": "runs/sweep", "shared": [], "overrides": []},
    ),
    (
        ["profile", VICUNA, "--crops", "2", "--text_tokens", "7", "--compare", "full"],
        "profiling.profile_recipe",
        {"crops": 2, "text_tokens": 7, "compare": "full"},
    ),
    (
        ["bench", VICUNA, "--batch_size", "1", "2", "--attention", "eager", "--crops", "1", "--model", "m", "--peak"],
        "profiling.bench.bench_recipes",
        {"batch_sizes": [1, 2], "attentions": ["eager"], "crops": [1], "model_path": "m", "peak": True},
    ),
    (
        ["bench", VICUNA, "--compare", "none", "--fold", "yes", "--dtype", "float16", "--device", "cpu"],
        "profiling.bench.bench_recipes",
        {"compare": None, "fold": "yes", "dtype": "float16", "device": "cpu"},
    ),
    (
        ["bench", VICUNA, "--warmup", "1", "--repeats", "2", "--splits", "3", "--new_tokens", "4", "--compare", "m3"],
        "profiling.bench.bench_recipes",
        {"warmup": 1, "repeats": 2, "splits": 3, "new_tokens": 4, "compare": "m3"},
    ),
    (["show-sample", VICUNA, "--data", "d", "--index", "3"], "data.show_sample", {"data_name": "d", "index": 3}),
    (
        ["convert", "s", "t", "--tower", "v", "--onto", "r", "--chat_template", "c"],
        "convert.convert",
        {"source": "s", "target": "t", "tower": "v", "onto": "r", "chat_template": "c"},
    ),
    (
        ["merge", "s", "t", "--dtype", "bfloat16"],
        "checkpoints.merge.merge_folder",
        {"source": "s", "target": "t", "dtype": "bfloat16"},
    ),
    (
        ["export", "m", "t", "--hub-name", "me/t", "--license", "mit"],
        "checkpoints.export.export",
        {"model": "m", "target": "t", "hub_name": "me/t", "license_id": "mit"},
    ),
    (
        ["generate", "m", "--prompt", "q", "--device", "cpu", "--dtype", "float16", "--load_in", "8bit"],
        "checkpoints.load.load_for_evaluation",
        {"device": "cpu", "dtype": "float16", "load_in": "8bit"},
    ),
    (
        ["rescore", "r", "--benchmarks_dir", "b", "--write"],
        "evaluation.rescore_results",
        {"result": "r", "benchmarks_dir": "b", "write": True},
    ),
]


class Reached(Exception):
    """The function was called with these named arguments."""


@pytest.mark.parametrize(("arguments", "name", "expected"), CASES, ids=[" ".join(case[0][:4]) for case in CASES])
def test_options_reach_the_function(monkeypatch, repo, arguments, name, expected):
    module, _, function = f"proxyv.{name}".rpartition(".")
    monkeypatch.chdir(repo)

    @functools.wraps(getattr(importlib.import_module(module), function))
    def record(*given, **named):
        raise Reached(named)

    monkeypatch.setattr(f"{module}.{function}", record)
    with pytest.raises(Reached) as reached:
        main(arguments)
    (named,) = reached.value.args
    assert named == expected
