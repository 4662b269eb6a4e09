"""One stage, from top to bottom: a model folder (or a fresh model) → data → Trainer → a model folder."""

from __future__ import annotations

import json
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from proxyv.checkpoints.adapter_folder import save_model
from proxyv.checkpoints.run_folder import LOG, last_checkpoint, write_finished
from proxyv.config import Recipe
from proxyv.data.collate import Collator
from proxyv.data.order import TrainingOrder, steps_of
from proxyv.data.training_data import TrainingData
from proxyv.environment import environment
from proxyv.errors import UserError
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor
from proxyv.processes import is_main, wait
from proxyv.train.adapters import adapt
from proxyv.train.parameters import inner_matrices, parameter_groups, parameter_table, set_trainable, show_table
from proxyv.train.settings import training_arguments
from proxyv.train.start import load_start, start_folder
from proxyv.train.trainer import StageTrainer


def run_stage(recipe: Recipe, stage: str, folder: Path, start: Path | None) -> None:
    """Train one stage from the model in `start` (None: the recipe's own start) and leave a complete model in `folder`;
    with `lora`, an adapter folder.

    An interrupted stage goes on from its last checkpoint, or begins anew where there is none.

    Raises UserError for a start, data, fields or a folder that do not work, and for a loss that is not finite.
    """
    spec, checkpoint = recipe.stages[stage], last_checkpoint(folder)
    set_seed(recipe.seed)

    # What is trained, and on what.
    model, processor = load_start(recipe, start)
    data = TrainingData(recipe, stage, processor)
    adapt(model, spec, stage, start_folder(recipe, start), folder)
    set_trainable(model, spec, stage)
    table = parameter_table(model, spec)

    # The folder: ready before the first step, so that nothing fails after the last.
    if is_main():
        print(f"stage {stage}: {len(data):,} samples\n{show_table(table)}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        trim_log(folder / LOG, 0 if checkpoint is None else int(checkpoint.name.rsplit("-", 1)[1]))
        if checkpoint is None:
            try_saving(model, processor, folder)
    wait()

    # Training.
    module = data.objective.module(model)
    trainer = make_trainer(recipe, stage, folder, model, module, data)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # What it leaves; the record that says so last.
    if module is model:  # Trainer gathers what is sharded
        trainer.save_model(str(folder))
    elif is_main():
        save(model, processor, folder)
    if is_main():
        write_finished(folder, finish_record(trainer, time.perf_counter() - began, table))
    wait()


def make_trainer(
    recipe: Recipe,
    stage: str,
    folder: Path,
    model: ProxyVForConditionalGeneration,
    module: nn.Module,
    data: TrainingData,
) -> StageTrainer:
    """The stage's trainer. A stage's order of samples depends on the recipe's seed and the stage's name alone.

    module: what the objective trains: the model, or a module around some of it.
    """
    spec = recipe.stages[stage]
    if spec.deepspeed is not None:
        keep_layers_whole(model)
    steps = spec.steps or steps_of(len(data), spec.global_batch_size, spec.epochs, spec.group_by_length)
    seed = zlib.crc32(f"{recipe.seed} {stage}".encode())
    lengths = data.lengths() if spec.group_by_length else None
    trained = [(model.module_group(name), p) for name, p in model.named_parameters() if p.requires_grad]
    return StageTrainer(
        spec=spec,
        groups=parameter_groups(trained + data.objective.added(module), inner_matrices(model), spec),
        order=TrainingOrder(len(data), spec.global_batch_size, steps, seed, lengths),
        log_file=folder / LOG,
        model=module,
        args=training_arguments(recipe, stage, folder, steps),
        train_dataset=data,
        data_collator=Collator(data.processor, data.objective),
        processing_class=data.processor,
    )


def keep_layers_whole(model: ProxyVForConditionalGeneration) -> None:
    """Let ZeRO-3 gather the weights of a decoder layer at once, and exchange its gradients together: one exchange a
    layer in place of one a linear map.

    A layer that runs several times before one backward pass cannot be kept whole: its gradients would be exchanged
    each time. Methods with several training passes must leave the layers as they are."""
    if len(model.method.training_passes()) > 1:
        return
    from deepspeed.utils import set_z3_leaf_modules

    layers: Any = model.get_decoder().layers
    set_z3_leaf_modules(model, list({type(layer) for layer in layers}))


def finish_record(trainer: StageTrainer, seconds: float, table: list[dict[str, Any]]) -> dict[str, Any]:
    """What finished.json holds: steps, last loss, seconds, counts of samples, parameters, environment."""
    return {
        "steps": trainer.state.global_step,
        "loss": next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry),
        "seconds": seconds,
        "samples": trainer.total_counts,
        "parameters": table,
        "environment": environment(),
    }


def save(model: ProxyVForConditionalGeneration, processor: ProxyVProcessor, folder: Path) -> None:
    """A complete folder: configuration, weights, processor, tokenizer, chat template."""
    save_model(model, folder)
    processor.save_pretrained(folder)


def try_saving(model: ProxyVForConditionalGeneration, processor: ProxyVProcessor, folder: Path) -> None:
    """Save once before the first step, so that whatever prevents it shows now and not after days of training.

    Raises UserError where saving fails.
    """
    trial = folder / ".trial-save"
    try:
        save(model, processor, trial)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: a model cannot be saved there ({' '.join(str(error).split())})") from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def trim_log(log_file: Path, steps: int) -> None:
    """Keep the log's lines up to a checkpoint; what came after it will be done again."""
    if not log_file.is_file():
        return
    lines: list[str] = log_file.read_text(encoding="utf-8").splitlines(keepends=True)
    entries: list[tuple[str, dict[str, Any]]] = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
    log_file.write_text("".join(line for line, entry in entries if entry["step"] <= steps), encoding="utf-8")
