"""A recipe → a run folder: its stages in order, each from the model the one before left."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack
from pathlib import Path

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from proxyv import processes
from proxyv.checkpoints.run_folder import is_finished, open_run, run_folder, stage_names
from proxyv.config import Recipe
from proxyv.data.training_data import check_sources
from proxyv.locks import LOCK, only_process
from proxyv.model.registry import settle_recipe
from proxyv.pages.ensure import ensure_pages
from proxyv.signals import Request, Stopped, stop_on_request
from proxyv.train.settings import check_stage
from proxyv.train.stage import run_stage


def train(recipe: Recipe, *, resume: bool = False, folder: Path | None = None) -> Path:
    """Train a recipe's stages (`run_stages`, or all) and return the run folder; see run_folder.py for what it holds.

    Works in one process or under torchrun.

    Args:
        resume: go on with this recipe's interrupted run: finished stages are kept, the interrupted one continues from
            its newest intact checkpoint, with the losses and weights of a run that was never interrupted.
        folder: the run folder; None: <output_dir>/<name>.

    Raises UserError for wrong fields or data, and for a run folder that already holds a run or in which another
    process is at work; and Stopped where SIGTERM or SIGUSR1 has ended a stage, behind a checkpoint.
    """
    recipe = settle_recipe(recipe)
    names, run = stage_names(recipe), folder or run_folder(recipe)
    for name in names:
        check_stage(recipe, name)
    processes.connect()
    with ExitStack() as held:
        processes.from_main(lambda: held.enter_context(only_process(run / LOCK)))
        processes.from_main(lambda: open_run(recipe, run, resume))
        ensure_pages(recipe)
        for name in names:  # before days of training in an earlier stage
            check_sources(recipe, name)
        request = held.enter_context(stop_on_request())
        _run_stages(recipe, names, run, request)
    return run


def _run_stages(recipe: Recipe, names: list[str], run: Path, request: Request) -> None:
    """Train the stages that are not finished."""
    finished = processes.from_main(lambda: [is_finished(run / name) for name in names])
    start: Path | None = None
    for name, done in zip(names, finished, strict=True):
        if came := next(filter(None, processes.gather(request.name)), None):
            raise Stopped(f"{run}: {came} came; stopped before stage {name}; use --resume")
        if not done:
            try:
                run_stage(recipe, name, run / name, start, request)
            finally:
                _forget_deepspeed()
            gc.collect()  # the next stage loads its own model, not beside this one's
        start = run / name


def _forget_deepspeed() -> None:
    """Undo what transformers and accelerate remember in this process, and would train a later stage with: the settings
    of a stage with `deepspeed`, and that DeepSpeed is in use at all."""
    unset_hf_deepspeed_config()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
