"""Two processes on one machine (gloo), as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from proxyv.config import load_recipe, save_recipe
from proxyv.files import CHECKOUT

TRAINING = Path(__file__).parent / "train_recipes.py"


def launch(arguments, folder, seconds=200):
    """Run a script or module on two processes in `folder`; returns the finished process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = str(CHECKOUT)
    return subprocess.run(
        [*launcher, *arguments], capture_output=True, text=True, timeout=seconds, env=environment, cwd=folder
    )


def train_on_two(folder, *recipes, stop_at=None):
    """Train recipes one after another on two processes, or go on with what was stopped; fails where one fails.

    stop_at: recipe name → the number of steps after which its run is given up, as by a power cut.
    """
    jobs, seconds = [], 100 + 60 * len(recipes)  # a machine that is busy with other things
    for recipe in recipes:
        file = folder / f"{recipe.name}.yaml"
        save_recipe(recipe, file)
        assert load_recipe(file) == recipe
        jobs.append(f"{file}@{(stop_at or {}).get(recipe.name, '')}")
    done = launch([str(TRAINING), str(seconds - 20), *jobs], folder, seconds)
    assert done.returncode == 0, done.stderr[-3000:]
