"""Hugging Face's Trainer with our sample order, parameter groups, log and checkpoints."""

from __future__ import annotations

import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from proxyv import processes
from proxyv.checkpoints.adapter_folder import load_weights, save_model
from proxyv.checkpoints.checkpoint_folder import PARTIAL, checkpoint_name, checksums, put_checkpoint
from proxyv.checkpoints.run_folder import LOG
from proxyv.config import StageSpec
from proxyv.data.order import TrainingOrder
from proxyv.errors import UserError
from proxyv.files import writing
from proxyv.model.lora import has_adapters
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.signals import Request
from proxyv.train.optimizer import make_optimizer
from proxyv.train.progress import Progress

MODEL = "model"  # the stage's final model, in its folder of partial things


class ProgressBar(ProgressCallback):
    """Trainer's bar with the loss at its end, instead of a line for every log entry."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


class LogLastStep(TrainerCallback):
    """The last step is logged even where `logging_steps` does not divide their number."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == state.max_steps:
            control.should_log = True
        return control


class StopOnRequest(TrainerCallback):
    """All processes save a checkpoint and stop behind the same step, once a signal has come to one of them.

    saves: whether the stage can keep checkpoints.
    """

    def __init__(self, request: Request, saves: bool):
        self.request, self.saves = request, saves

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if processes.anywhere(self.request.name is not None, args.device) and state.global_step < state.max_steps:
            control.should_training_stop, control.should_save = True, self.saves
        return control


class StageTrainer(Trainer):
    """Trainer of one stage.

    Args (beside Trainer's own):
        spec: the stage.
        groups: parameter groups, see `parameter_groups`.
        order: which sample comes when.
        folder: the stage's.
        origin: what a checkpoint is trained under, see `checkpoint_folder.check_origin`.
        request: a signal to stop, once it has come.
    """

    def __init__(
        self,
        *,
        spec: StageSpec,
        groups: list[dict[str, Any]],
        order: TrainingOrder,
        folder: Path,
        origin: dict[str, Any],
        request: Request,
        **kwargs: Any,
    ):
        self.spec, self.groups, self.order, self.folder, self.origin = spec, groups, order, folder, origin
        super().__init__(**kwargs)
        self.progress = Progress(self.args.device)
        self.add_callback(LogLastStep)
        self.add_callback(StopOnRequest(request, saves=isinstance(self.model, ProxyVForConditionalGeneration)))
        self.remove_callback(ProgressCallback)
        if not self.args.disable_tqdm:
            self.add_callback(ProgressBar)
        if hasattr(self.model, "config"):  # Trainer switches the cache off for good; see `compute_loss`
            vars(self.model.config).pop("use_cache", None)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = make_optimizer(self.groups, self.spec)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The micro-batches of one step; keeps what the log needs: time waited, tokens, counts, rates.

        Raises UserError for bad data, in one line also where a worker process met it.
        """
        before = time.perf_counter()
        try:
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        except UserError as error:  # from a worker process it comes with that process's traceback
            last = error.raised().strip().splitlines()[-1]
            raise UserError(last.removeprefix("proxyv.errors.UserError: ")) from error
        self.progress.waited += time.perf_counter() - before
        for batch in batches:
            self.progress.add(batch)
        if self.optimizer is not None:
            self.rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.progress.loss += loss
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if "input_ids" in inputs:
            inputs = {**inputs, "use_cache": False}
        return super().compute_loss(model, inputs, *args, **kwargs)

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes checkpoints: not into place, see `_save_checkpoint`."""
        return str(self.folder / PARTIAL)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside and put it into place once every process has written its part.

        Raises UserError in all processes where one of them finds no space; then what is in place stays as it was.
        """
        checkpoint = self.folder / checkpoint_name(self.state.global_step)
        partial, problem = self.folder / PARTIAL / checkpoint.name, None
        try:
            with writing(checkpoint):
                self.progress.save(partial)
                super()._save_checkpoint(model, trial)
        except UserError as error:
            problem = str(error)
        if problems := [of for of in processes.gather(problem) if of is not None]:
            if processes.is_main():  # half of it only takes the space that is missing
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(problems[0])
        shares = processes.gather(checksums(partial, processes.rank(), processes.world_size()))
        files = {name: of for share in shares for name, of in share.items()}
        keep = self.spec.keep_checkpoints
        processes.from_main(lambda: put_checkpoint(partial, checkpoint, files, self.origin, keep))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not has_adapters(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            place = self.folder if folder.name == MODEL else self.folder / folder.name
            save_model(self.model, folder, state_dict, place)
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if has_adapters(self.model):
            load_weights(self.model, Path(resume_from_checkpoint))
        else:  # Trainer's own loading passes over weights that are missing or named as another version names them
            saved = ProxyVForConditionalGeneration.from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())

    # ── log ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our figures to Trainer's and append them to the log file as one JSON line.

        Fields: step, loss, grad_norm, learning_rate/<group>, tokens_per_second (all rows) and
        supervised_tokens_per_second of all processes together, data_wait_seconds and peak_memory_gib of this one,
        elapsed_seconds, epoch, and what was skipped or substituted since the stage began, in all its legs.

        The loss is our own sum, not Trainer's: that one forgets the steps between the last line and a checkpoint.

        Raises UserError for a loss that is not finite, for too many bad records and images, and where the disk is full.
        """
        step = self.state.global_step
        if "loss" in logs:
            logs["loss"] = self.progress.mean_loss(step)
            logs.pop("learning_rate", None)
            logs.update({f"learning_rate/{name}": rate for name, rate in self.rates.items()})
            logs.update(self.progress.figures())
            logs["peak_memory_gib"] = peak_memory() / 2**30
        super().log(logs, start_time)
        logs["epoch"] = step * self.order.batch / self.order.size
        if "loss" in logs and self.is_world_process_zero():
            log_file = self.folder / LOG
            with writing(log_file), log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **logs}) + "\n")
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(f"{self.folder / LOG}: the loss is {logs['loss']} at step {step}; lower the learning rate")
        if "loss" in logs:
            self.train_dataset.check_share(logs, step * self.order.batch)


def peak_memory() -> int:
    """Bytes this process had in use at most: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
