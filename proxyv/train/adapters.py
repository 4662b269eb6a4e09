"""A stage's `lora` → adapters inside the model.

Which layers get one follows from `model.module_group`: the linear layers of the LLM, and of no other group unless
`targets` names that group. The output head never gets one.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import nn

from proxyv.checkpoints.checkpoint_folder import PARTIAL
from proxyv.config import LoRASpec, StageSpec
from proxyv.errors import UserError, suggest
from proxyv.files import writing
from proxyv.model.lora import inject
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.processes import is_main

ALL_LINEAR = "all-linear"
BASE = "base"  # folder beside an adapter, for a base model that no other folder holds


def adapt(model: ProxyVForConditionalGeneration, spec: StageSpec, stage: str, start: Path | None, folder: Path) -> None:
    """Put the adapters of a stage's `lora` into the model, in place; nothing without `lora`.

    Args:
        start: folder that holds the model as it is now. None: nobody has it yet, and it is kept in `folder`/base,
            because an adapter is worth nothing without its base.

    Raises UserError where a target fits no layer, adapters lie on a group that is not in the stage's `train`, or their
    rank is above that of any layer.
    """
    if spec.lora is None:
        return
    from peft import LoraConfig

    targets = find_targets(model, spec.lora, stage)
    for group in sorted({model.module_group(name) for name in targets} - set(spec.train)):
        raise UserError(f"stages.{stage}.train: lora puts adapters on '{group}'; add it, or change lora.targets")
    layers = [cast(nn.Linear, model.get_submodule(name)) for name in targets]
    widest = max(min(layer.in_features, layer.out_features) for layer in layers)
    if (rank := spec.lora.rank) > widest:
        raise UserError(f"stages.{stage}.lora.rank: {rank} is above the {widest} of the widest layer; lower it")
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=targets,
        base_model_name_or_path=str(start or _keep_base(model, folder)),
    )
    inject(model, config)


def find_targets(model: ProxyVForConditionalGeneration, lora: LoRASpec, stage: str) -> list[str]:
    """Full names of the linear layers that `lora.targets` means. Raises UserError for a target that fits none."""
    head = model.get_output_embeddings()
    linear = {
        name: model.module_group(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    found: set[str] = set()
    for target in lora.targets:
        fitting = {name for name, group in linear.items() if _fits(target, name, group)}
        if not fitting:
            known = {name.rsplit(".", 1)[1] for name, group in linear.items() if group == "llm"}
            hint = suggest(target, sorted(known | set(linear.values()) - {"llm"} | {ALL_LINEAR}))
            raise UserError(f"stages.{stage}.lora.targets: '{target}' is no linear layer of the LLM{hint}")
        found |= fitting
    return sorted(found)


def _fits(target: str, name: str, group: str) -> bool:
    """Whether a target means this layer: in the LLM by its name's last parts, elsewhere by its group's name."""
    if group != "llm":
        return target == group
    return target == ALL_LINEAR or f".{name}".endswith(f".{target}")


def _keep_base(model: ProxyVForConditionalGeneration, folder: Path) -> Path:
    """Save the model in `folder`/base, all at once, unless it is there; only the main process writes."""
    base, partial = folder / BASE, folder / PARTIAL / BASE
    if is_main() and not base.exists():
        with writing(base):
            model.save_pretrained(partial)
        partial.rename(base)
    return base
