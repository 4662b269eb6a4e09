"""Two processes on one machine (gloo) train as one does."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from proxyv.checkpoints.run_folder import find_model
from proxyv.config import load_recipe, save_recipe
from proxyv.files import CHECKOUT
from proxyv.train import train
from tests.small_runs import figures, page_recipe, stage

pytestmark = pytest.mark.distributed

SCRIPT = """
    import faulthandler
    import sys

    faulthandler.dump_traceback_later(150, exit=True)  # a process that waits for ever says where
    from proxyv.config import load_recipe
    from proxyv.errors import UserError
    from proxyv.train import train
    try:
        train(load_recipe(sys.argv[1]), resume="--resume" in sys.argv)
    except UserError as error:
        print(f"wrong input: {error}")
        raise SystemExit(2)
"""


ONE = dict(steps=2, micro_batch_size=1)
ZERO_3 = {
    **dict.fromkeys(["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"], "auto"),
    "gradient_clipping": "auto",
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_param_persistence_threshold": 0,  # shard the smallest weights too
    },
}


def train_on_two(recipe, folder, *options):
    """Run `train` under torchrun; returns the finished process."""
    script, recipe_file = folder / "script.py", folder / f"{recipe.name}.yaml"
    script.write_text(textwrap.dedent(SCRIPT))
    save_recipe(recipe, recipe_file)
    assert load_recipe(recipe_file) == recipe
    return launch([str(script), str(recipe_file), *options], folder)


def launch(arguments, folder):
    """Run a script or module on two processes in `folder`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = str(CHECKOUT)
    return subprocess.run(
        [*launcher, *arguments], capture_output=True, text=True, timeout=200, env=environment, cwd=folder
    )


@pytest.mark.parametrize("zero", [None, ZERO_3], ids=["ddp", "zero3"])
def test_two_processes_train_as_one_and_resume(tmp_path, zero):
    deepspeed = None
    if zero is not None:
        pytest.importorskip("deepspeed")
        (tmp_path / "zero.json").write_text(json.dumps(zero))
        deepspeed = str(tmp_path / "zero.json")
    # Micro-batches of one sample: in most steps one process has an image and the other has none.
    common = dict(micro_batch_size=1, deepspeed=deepspeed)
    mixed = stage(["captions", "text"], save_steps=2, steps=5, **common)
    adapter = stage(["text", "captions"], train=["projector", "newline", "method"], **common)
    recipe = page_recipe(tmp_path, mixed=mixed, adapter=adapter)
    recipe.name = "two"
    done = train_on_two(recipe, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "runs" / "two"
    assert find_model(two) == two / "adapter"
    single = {name: replace(spec, deepspeed=None) for name, spec in recipe.stages.items()}
    one = train(replace(recipe, name="one", stages=single))
    for name in recipe.stages:
        for expected, found in zip(figures(one, name), figures(two, name), strict=True):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    # As if the run had been stopped behind the last checkpoint of its first stage.
    expected = figures(two, "mixed")
    (two / "mixed" / "finished.json").unlink()
    done = train_on_two(recipe, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert figures(two, "mixed") == expected


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
    done = train_on_two(recipe, tmp_path)
    assert done.returncode != 0
    assert "global_batch_size: 3 is no multiple of micro_batch_size 3 × 2 process(es)" in done.stdout
