"""The README's "Add your own" section, walked through: a method file in a folder of its own is profiled, trained,
evaluated, and held to the contract of every other method."""

import json
import re

import pytest

from proxyv.experiments.quickstart import SMOKE
from tests.warm import python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(repo, tmp_path_factory):
    """A folder with `my_methods/largest.py` as the README gives it."""
    blocks = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(encoding="utf-8"), re.S)
    (code,) = [block for block in blocks if "(Method)" in block]
    assert len(code.splitlines()) <= 25
    folder = tmp_path_factory.mktemp("walk")
    (folder / "my_methods").mkdir()
    (folder / "my_methods" / "largest.py").write_text(code, encoding="utf-8")
    return folder


def run(repo, workplace, *arguments):
    """A command in the checkout, with the folder of methods named; returns what it prints."""
    environment = {"PROXYV_METHODS": str(workplace / "my_methods")}
    done = python("-m", *arguments, folder=repo, environment=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_profile(repo, workplace):
    recipe = "configs/recipes/vicuna-7b-full.yaml"
    method = ["--method.name", "largest", "--method.tokens", "144"]
    figures = json.loads(run(repo, workplace, "proxyv", "profile", recipe, *method, "--compare", "full", "--json"))
    assert figures["method"] == {"name": "largest", "tokens": 144}
    assert 0.7 < figures["decoder_flops_reduction"] < 0.8  # a quarter of the vision tokens is left


def test_train_and_evaluate(repo, workplace):
    places = ["--output_dir", str(workplace / "runs"), "--data_root", str(workplace / "data")]
    quick = [word for field in SMOKE for word in ("--" + field.split("=")[0], field.split("=")[1])]
    method = ["--name", "tiny-largest", "--method.name", "largest"]
    run(repo, workplace, "proxyv", "train", "configs/recipes/tiny-full.yaml", *method, *places, *quick)
    trained = str(workplace / "runs" / "tiny-largest")
    result = json.loads(run(repo, workplace, "proxyv", "eval", trained, "--batch_size", "4", "--json"))
    assert set(result["benchmarks"]) >= {"synthetic_docvqa", "synthetic_parsing"}


def test_contract(repo, workplace):
    shown = run(repo, workplace, "pytest", "tests/contract/test_methods.py", "-q", "-k", "largest", "-p", "no:xdist")
    assert int(re.search(r"(\d+) passed", shown)[1]) > 20


def test_a_name_that_is_taken(repo, workplace):
    folder = workplace / "twice"
    folder.mkdir()
    code = (workplace / "my_methods" / "largest.py").read_text(encoding="utf-8")
    (folder / "mine.py").write_text(code.replace('"largest"', '"full"'), encoding="utf-8")
    command = ["-m", "proxyv", "profile", "configs/recipes/tiny-full.yaml"]
    done = python(*command, folder=repo, environment={"PROXYV_METHODS": str(folder)})
    assert done.returncode == 2 and "method name 'full' is taken" in done.stderr
