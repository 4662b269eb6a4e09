"""Two processes on one machine: commands beside training itself."""

import json

import pytest

from proxyv.config import save_recipe
from tests.commands import Group
from tests.small_runs import page_recipe, stage

pytestmark = pytest.mark.distributed

ONE = dict(steps=2, micro_batch_size=1)


def run_on_two(arguments, folder):
    """A command in two processes, as torchrun starts them; returns their exit codes and what they print."""
    group = Group(arguments, folder, processes=2)
    return group.wait(), group.printed()


def test_two_processes_sweep(tmp_path):
    recipe = page_recipe(tmp_path, base=stage(["text"], train=["llm"], **ONE), own=stage(["captions"], **ONE))
    save_recipe(recipe, tmp_path / "tiny.yaml")
    arguments = ["tiny.yaml", "--output", "sweep", "--do", "train", "--shared", "base", "--seeds", "0", "1"]
    codes, printed = run_on_two(["sweep", *arguments], tmp_path)
    assert codes == [0, 0], printed[-3000:]
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert list(result["recipes"]["tiny"]["runs"]) == list(result["shared"]) == ["0", "1"]
    assert printed.count("proxyv sweep: [2/2] tiny, seed 1") == 1


def test_wrong_input_ends_all_processes(tmp_path):
    recipe = page_recipe(tmp_path, text=stage(["text"], global_batch_size=3, micro_batch_size=3))
    save_recipe(recipe, tmp_path / "tiny.yaml")
    codes, printed = run_on_two(["train", "tiny.yaml"], tmp_path)
    assert codes == [2, 2]
    assert "global_batch_size: 3 is no multiple of micro_batch_size 3 × 2 process(es)" in printed


def test_what_is_wrong_for_all_processes_of_an_evaluation_is_told_once(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    codes, printed = run_on_two(["eval", "model", "--suite", "synthetic", "--data_root", "gone"], tmp_path)
    assert codes == [2, 2], printed
    assert printed.count("proxyv eval: ") == 1 and "gone" in printed and "Traceback" not in printed
