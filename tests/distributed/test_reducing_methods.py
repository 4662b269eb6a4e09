"""Methods that run the LLM more than once for a batch train on two processes, with sharded weights, as on one."""

import json
from dataclasses import replace

import pytest

from proxyv.train import train
from tests.contract.method_settings import method_fields
from tests.distributed.test_two_processes import ZERO_3, train_on_two
from tests.small_runs import figures, page_recipe, stage

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("name", ["m3", "quecc"])
def test_sharded_training_equals_one_process(tmp_path, name):
    """Micro-batches of one sample: in most steps one process has an image and the other has none."""
    pytest.importorskip("deepspeed")
    (tmp_path / "zero.json").write_text(json.dumps(ZERO_3))
    mixed = stage(["captions", "text"], micro_batch_size=1, deepspeed=str(tmp_path / "zero.json"))
    recipe = replace(page_recipe(tmp_path, method=method_fields(name), mixed=mixed), name="two")
    done = train_on_two(recipe, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one = train(replace(recipe, name="one", stages={"mixed": replace(mixed, deepspeed=None)}))
    for expected, found in zip(figures(one, "mixed"), figures(tmp_path / "runs" / "two", "mixed"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
