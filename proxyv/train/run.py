"""A recipe → a run folder: its stages in order, each from the model the one before left."""

from __future__ import annotations

import gc
from pathlib import Path

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from proxyv import processes
from proxyv.checkpoints.run_folder import is_finished, open_run, run_folder, stage_names
from proxyv.config import Recipe
from proxyv.data.training_data import check_sources
from proxyv.model.registry import settle_method
from proxyv.pages.ensure import ensure_pages
from proxyv.train.settings import check_stage
from proxyv.train.stage import run_stage


def train(recipe: Recipe, *, resume: bool = False, folder: Path | None = None) -> Path:
    """Train a recipe's stages (`run_stages`, or all) and return the run folder; see run_folder.py for what it holds.

    Works in one process or under torchrun.

    Args:
        resume: go on with this recipe's interrupted run: finished stages are kept, the interrupted one continues from
            its last checkpoint, with the losses of a run that was never interrupted.
        folder: the run folder; None: <output_dir>/<name>.

    Raises UserError for wrong fields or data, and for a run folder that already holds a run.
    """
    recipe = settle_method(recipe)
    names, run = stage_names(recipe), folder or run_folder(recipe)
    for name in names:
        check_stage(recipe, name)
    processes.connect()
    if processes.is_main():
        open_run(recipe, run, resume)
    processes.wait()
    ensure_pages(recipe)
    for name in names:  # before days of training in an earlier stage
        check_sources(recipe, name)
    finished = [is_finished(run / name) for name in names]
    processes.wait()  # nobody may finish a stage before all have looked
    start: Path | None = None
    for name, done in zip(names, finished, strict=True):
        if not done:
            run_stage(recipe, name, run / name, start)
            # The next stage loads its own model, whole: not beside this one's, nor sharded by this one's DeepSpeed.
            unset_hf_deepspeed_config()
            gc.collect()
        start = run / name
    return run
