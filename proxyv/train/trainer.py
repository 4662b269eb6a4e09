"""Hugging Face's Trainer with our sample order, parameter groups and log."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from proxyv.checkpoints.adapter_folder import load_weights, save_model
from proxyv.config import StageSpec
from proxyv.constants import IGNORE_INDEX
from proxyv.data.order import TrainingOrder
from proxyv.data.outcomes import COUNTS
from proxyv.errors import UserError
from proxyv.model.lora import has_adapters
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.train.optimizer import make_optimizer


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


class StageTrainer(Trainer):
    """Trainer of one stage.

    Args (beside Trainer's own):
        spec: the stage.
        groups: parameter groups, see `parameter_groups`.
        order: which sample comes when.
        log_file: JSON lines; see `log`.
    """

    def __init__(
        self, *, spec: StageSpec, groups: list[dict[str, Any]], order: TrainingOrder, log_file: Path, **kwargs: Any
    ):
        self.spec, self.groups, self.order, self.log_file = spec, groups, order, log_file
        self.counts = torch.zeros(len(COUNTS), dtype=torch.int64)  # of this process
        self.total_counts = dict.fromkeys(COUNTS, 0)  # of all processes, at the last log entry
        self.started = time.perf_counter()
        self._start_interval()
        super().__init__(**kwargs)
        self.add_callback(LogLastStep)
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
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("proxyv.errors.UserError: ")) from error
        self.waited += time.perf_counter() - before
        for batch in batches:
            self.counts += batch.pop("counts").cpu()
            rows = batch.get("attention_mask", batch["labels"] != IGNORE_INDEX)
            self.tokens += torch.stack([rows.sum(), (batch["labels"] != IGNORE_INDEX).sum()]).to(self.tokens)
        if self.optimizer is not None:
            self.rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return batches, items

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if "input_ids" in inputs:
            inputs = {**inputs, "use_cache": False}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not has_adapters(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = output_dir or self.args.output_dir
            save_model(self.model, Path(folder), state_dict)
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if has_adapters(self.model):
            load_weights(self.model, Path(resume_from_checkpoint))
        else:  # Trainer's own loading passes over weights that are missing or named as another version names them
            saved = ProxyVForConditionalGeneration.from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our figures to Trainer's and append them to the log file as one JSON line.

        Fields: step, loss, grad_norm, learning_rate/<group>, tokens_per_second (all rows) and
        supervised_tokens_per_second of all processes together, data_wait_seconds and peak_memory_gib of this one,
        elapsed_seconds, epoch, and what was skipped or substituted since the stage began or was resumed.

        Raises UserError for a loss that is not finite.
        """
        if "loss" in logs:
            logs.pop("learning_rate", None)
            logs.update(self._figures())
        super().log(logs, start_time)
        logs["epoch"] = self.state.global_step * self.order.batch / self.order.size
        if "loss" in logs and self.is_world_process_zero():
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(
                f"{self.log_file}: the loss is {logs['loss']} at step {self.state.global_step}; lower the learning rate"
            )

    def _figures(self) -> dict[str, float]:
        now = time.perf_counter()
        totals = self.accelerator.reduce(torch.cat([self.tokens, self.counts]).to(self.args.device)).tolist()
        rows, supervised, *counts = totals
        self.total_counts = dict(zip(COUNTS, counts, strict=True))
        figures = {
            **{f"learning_rate/{name}": rate for name, rate in self.rates.items()},
            "tokens_per_second": rows / (now - self.interval),
            "supervised_tokens_per_second": supervised / (now - self.interval),
            "data_wait_seconds": self.waited,
            "peak_memory_gib": peak_memory() / 2**30,
            "elapsed_seconds": now - self.started,
            **{name: count for name, count in self.total_counts.items() if count},
        }
        self._start_interval()
        return figures

    def _start_interval(self) -> None:
        self.interval, self.waited = time.perf_counter(), 0.0
        self.tokens = torch.zeros(2, dtype=torch.int64)


def peak_memory() -> int:
    """Bytes this process had in use at most: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
