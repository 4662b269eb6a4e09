"""One stage, from top to bottom: a model folder (or a fresh model) → data → Trainer → a model folder."""

from __future__ import annotations

import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from proxyv import processes
from proxyv.checkpoints.adapter_folder import save_model
from proxyv.checkpoints.checkpoint_folder import PARTIAL, check_origin, clean, newest_intact, put_model, step_of
from proxyv.checkpoints.run_folder import FINISHED, LOG
from proxyv.config import Recipe, StageSpec
from proxyv.data.collate import Collator
from proxyv.data.order import TrainingOrder, steps_of
from proxyv.data.outcomes import COUNTS
from proxyv.data.training_data import TrainingData
from proxyv.environment import environment
from proxyv.errors import UserError
from proxyv.files import read_json, read_records, write_json, write_records, writing
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor
from proxyv.signals import Request, Stopped
from proxyv.train.adapters import adapt
from proxyv.train.parameters import inner_matrices, parameter_groups, parameter_table, set_trainable, show_table
from proxyv.train.progress import ROWS
from proxyv.train.settings import global_batch, training_arguments
from proxyv.train.start import load_start, start_folder
from proxyv.train.trainer import MODEL, StageTrainer


def run_stage(recipe: Recipe, stage: str, folder: Path, start: Path | None, request: Request) -> None:
    """Train one stage from the model in `start` (None: the recipe's own start) and leave a complete model in `folder`;
    with `lora`, an adapter folder.

    An interrupted stage goes on from its newest intact checkpoint, or begins anew where it has come to none.

    Raises UserError for a start, data, fields or a folder that do not work, for checkpoints of which none is intact or
    that were made under other conditions, for a loss that is not finite and for a full disk; and Stopped behind the
    step at which a signal came.
    """
    spec, origin = recipe.stages[stage], origin_of(recipe.stages[stage])
    checkpoint = processes.from_main(lambda: find_checkpoint(folder, origin))
    set_seed(recipe.seed)

    # What is trained, and on what.
    model, processor = load_start(recipe, start)
    data = TrainingData(recipe, stage, processor)
    notes = data.check_records()
    adapt(model, spec, stage, start_folder(recipe, start), folder)
    set_trainable(model, spec, stage)
    table = parameter_table(model, spec)

    # The folder: ready before the first step, so that nothing fails after the last.
    if processes.is_main():
        print("\n".join([f"stage {stage}: {len(data):,} samples", *notes, show_table(table)]), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        trim_log(folder / LOG, 0 if checkpoint is None else step_of(checkpoint))
        if checkpoint is None:
            try_saving(model, processor, folder)
    processes.wait()

    # Training.
    module = data.objective.module(model)
    trainer = make_trainer(recipe, stage, folder, model, module, data, origin, request)
    if checkpoint is not None:
        trainer.progress.load(checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if (step := trainer.state.global_step) < trainer.order.steps:
        kept = "kept in a checkpoint" if module is model else "the stage will begin anew"
        raise Stopped(f"{folder}: {request.name or 'a signal'} came; stopped behind step {step}, {kept}; use --resume")

    # What it leaves; the record that says so last.
    partial = folder / PARTIAL / MODEL
    with writing(folder):
        if module is model:  # Trainer gathers what is sharded
            trainer.save_model(str(partial))
        elif processes.is_main():
            save(model, processor, partial)
    totals = trainer.progress.totals()
    if processes.is_main():
        put_model(partial, folder)
        clean(folder)
        write_json(folder / FINISHED, finish_record(trainer, totals, table))
    processes.wait()


def find_checkpoint(folder: Path, origin: dict[str, Any]) -> Path | None:
    """The checkpoint that a stage goes on from (None: it begins), in a folder without leftovers; says on stderr which
    ones are damaged. Raises UserError where none is intact, or it was trained under other conditions."""
    clean(folder)
    checkpoint, warnings = newest_intact(folder)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if checkpoint is not None:
        check_origin(checkpoint, origin)
    return checkpoint


def origin_of(spec: StageSpec) -> dict[str, Any]:
    """What a checkpoint's files depend on and the recipe does not hold: the number of processes and what is in
    DeepSpeed's file."""
    deepspeed = None if spec.deepspeed is None else read_json(Path(spec.deepspeed))
    return {"processes": processes.world_size(), "deepspeed": deepspeed}


def make_trainer(
    recipe: Recipe,
    stage: str,
    folder: Path,
    model: ProxyVForConditionalGeneration,
    module: nn.Module,
    data: TrainingData,
    origin: dict[str, Any],
    request: Request,
) -> StageTrainer:
    """The stage's trainer. A stage's order of samples depends on the recipe's seed and the stage's name alone.

    Args:
        module: what the objective trains: the model, or a module around some of it.
        origin, request: see StageTrainer.
    """
    spec = recipe.stages[stage]
    if spec.deepspeed is not None:
        keep_layers_whole(model)
    steps = spec.steps or steps_of(len(data), global_batch(spec), spec.epochs, spec.group_by_length)
    seed = zlib.crc32(f"{recipe.seed} {stage}".encode())
    lengths = data.lengths() if spec.group_by_length else None
    trained = [(model.module_group(name), p) for name, p in model.named_parameters() if p.requires_grad]
    return StageTrainer(
        spec=spec,
        groups=parameter_groups(trained + data.objective.added(module), inner_matrices(model), spec),
        order=TrainingOrder(len(data), global_batch(spec), steps, seed, lengths),
        folder=folder,
        origin=origin,
        request=request,
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


def finish_record(trainer: StageTrainer, totals: dict[str, int], table: list[dict[str, Any]]) -> dict[str, Any]:
    """What finished.json holds: steps, last loss, parameters, environment, and of all legs together (steps that were
    done twice count once) seconds, tokens, samples and what was skipped of them."""
    step = trainer.state.global_step
    return {
        "steps": step,
        "loss": next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry),
        "legs": trainer.progress.legs,
        "seconds": trainer.progress.seconds,
        "tokens": {name: totals[name] for name in ROWS},
        "samples": {"trained": step * trainer.order.batch, **{name: totals[name] for name in COUNTS}},
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
    trial = folder / PARTIAL / "trial"
    try:
        with writing(folder):
            save(model, processor, trial)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: a model cannot be saved there ({error})") from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def trim_log(log_file: Path, steps: int) -> None:
    """Keep the log's lines up to a checkpoint; what came after it will be done again."""
    if log_file.is_file():
        write_records(log_file, [entry for entry in read_records(log_file) if entry["step"] <= steps])
