"""Two processes on one machine: commands beside training itself."""

import json

import pytest

from proxyv.config import save_recipe
from tests.distributed.processes import launch
from tests.small_runs import page_recipe, stage

pytestmark = pytest.mark.distributed

ONE = dict(steps=2, micro_batch_size=1)


def test_two_processes_sweep(tmp_path):
    recipe = page_recipe(tmp_path, base=stage(["text"], train=["llm"], **ONE), own=stage(["captions"], **ONE))
    save_recipe(recipe, tmp_path / "tiny.yaml")
    arguments = ["tiny.yaml", "--output", "sweep", "--do", "train", "--shared", "base", "--seeds", "0", "1"]
    done = launch(["-m", "proxyv", "sweep", *arguments], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert list(result["recipes"]["tiny"]["runs"]) == list(result["shared"]) == ["0", "1"]
    assert done.stderr.count("proxyv sweep: [2/2] tiny, seed 1") == 1


def test_wrong_input_ends_all_processes(tmp_path):
    recipe = page_recipe(tmp_path, text=stage(["text"], global_batch_size=3, micro_batch_size=3))
    save_recipe(recipe, tmp_path / "tiny.yaml")
    done = launch(["-m", "proxyv", "train", "tiny.yaml"], tmp_path)
    assert done.returncode != 0
    assert "global_batch_size: 3 is no multiple of micro_batch_size 3 × 2 process(es)" in done.stderr
