"""A stage's fields → Hugging Face's training arguments, checked first."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from proxyv.config import Recipe, Schedule, StageSpec
from proxyv.data.objectives import objective_of
from proxyv.errors import UserError
from proxyv.model.lora import require_peft
from proxyv.model.modeling import MODULE_GROUPS
from proxyv.model.recipe_configs import text_config
from proxyv.model.sub_configs import position_limit
from proxyv.processes import world_size
from proxyv.schema import check_dataclass

# Our names for Hugging Face's schedules. A trapezoid is flat after the warm-up and falls to zero in the last half.
SCHEDULES: dict[Schedule, str] = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "trapezoid": "warmup_stable_decay",
}


def check_stage(recipe: Recipe, stage: str) -> None:
    """Raise UserError for the first field of a stage that cannot work."""
    spec = recipe.stages[stage]
    check_dataclass(spec, f"stages.{stage}")
    accumulation(spec, stage)
    if not spec.train:
        raise UserError(f"stages.{stage}.train: names no module group; use some of {', '.join(MODULE_GROUPS)}")
    if frozen := [group for group in spec.group_learning_rate if group not in spec.train]:
        raise UserError(
            f"stages.{stage}.group_learning_rate: '{frozen[0]}' does not train; add it to stages.{stage}.train, or "
            "leave out its rate"
        )
    if recipe.llm.config or recipe.llm.pretrained:
        most = position_limit(text_config(recipe.llm))
        if spec.max_length > most:
            raise UserError(
                f"stages.{stage}.max_length: {spec.max_length} is more than the {most} positions of the LLM "
                "(llm.config.max_position_embeddings); lower it"
            )
    if spec.lora is not None:
        require_peft(f"stages.{stage}.lora")
    for tracker in recipe.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"report_to: {tracker} is not installed; `pip install {tracker}`, or leave it out")
    if spec.deepspeed is not None:
        _check_deepspeed(spec.deepspeed, f"stages.{stage}.deepspeed")
        if spec.optimizer == "muon":
            raise UserError(f"stages.{stage}.optimizer: muon needs whole matrices, deepspeed cuts them; use adamw")
    objective_of(spec, stage).check(spec, stage)


def _check_deepspeed(file: str, field: str) -> None:
    """Raise UserError where the file or the package is missing."""
    if not os.path.isfile(file):  # unlike Path's, for names of any length
        raise UserError(f"{field}: {file} does not exist; start in the repository's root")
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"{field}: not installed; `pip install deepspeed`, or set the field to null")


def accumulation(spec: StageSpec, stage: str) -> int:
    """Micro-batches per optimiser step and process. Raises UserError where the sizes do not divide."""
    together = spec.micro_batch_size * world_size()
    if global_batch(spec) % together:
        raise UserError(
            f"stages.{stage}.global_batch_size: {spec.global_batch_size} is no multiple of micro_batch_size "
            f"{spec.micro_batch_size} × {world_size()} process(es); change one of them"
        )
    return global_batch(spec) // together


def global_batch(spec: StageSpec) -> int:
    """Samples per optimiser step, of all processes."""
    return spec.global_batch_size or spec.micro_batch_size * world_size()


def training_arguments(recipe: Recipe, stage: str, folder: Path, steps: int) -> TrainingArguments:
    """Trainer's arguments for one stage of `steps` optimiser steps."""
    spec = recipe.stages[stage]
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    # Renamed in transformers 5; the old name is deprecated in later versions.
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    fields: dict[str, Any] = {
        checkpointing: spec.gradient_checkpointing,
        f"{checkpointing}_kwargs": {"use_reentrant": False},
    }
    if spec.schedule == "trapezoid":
        fields["lr_scheduler_kwargs"] = {"num_decay_steps": steps // 2, "decay_type": "linear"}
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=f"{recipe.name}/{stage}",
        per_device_train_batch_size=spec.micro_batch_size,
        gradient_accumulation_steps=accumulation(spec, stage),
        max_steps=steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=SCHEDULES[spec.schedule],
        warmup_steps=math.ceil(spec.warmup_ratio * steps),
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.dtype == "bfloat16",
        torch_compile=spec.compile,
        logging_steps=spec.logging_steps,
        logging_nan_inf_filter=False,  # a loss that is not finite ends the run instead
        save_strategy="steps" if spec.save_steps else "no",
        save_steps=spec.save_steps or 0,
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=list(recipe.report_to) or "none",
        remove_unused_columns=False,
        dataloader_num_workers=spec.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        deepspeed=spec.deepspeed,
        # Every trained parameter gets a gradient in every micro-batch (see model/gradient_order.py).
        ddp_find_unused_parameters=False,
        **fields,
    )
    if arguments.n_gpu > 1:  # one process drives one GPU; several are torchrun's business
        arguments._n_gpu = 1
    return arguments
