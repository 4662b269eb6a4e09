"""Low-rank adapters (LoRA, arXiv 2106.09685) inside the model, by PEFT's layers.

Which layers get one is told by `model.module_group`: the linear layers of the LLM, and of no other group unless
`targets` names that group. The output head never gets one.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proxyv.config import LoRASpec, StageSpec, suggest
from proxyv.errors import UserError
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration

NAME = "default"  # of the one adapter; PEFT puts it into its parameters' names
ALL_LINEAR = "all-linear"
BASE = "base"  # folder beside an adapter, for a base model that no other folder holds


def check_lora(spec: StageSpec, stage: str) -> None:
    """Raise UserError for a stage's `lora` that cannot work, as far as can be told without the model."""
    field, lora = f"stages.{stage}.lora", spec.lora
    if lora is None:
        return
    if lora.rank < 1:
        raise UserError(f"{field}.rank: {lora.rank} is too small; use 1 or more")
    if not 0 <= lora.dropout < 1:
        raise UserError(f"{field}.dropout: {lora.dropout} is no probability below 1; use 0 for none")
    if not _targets(lora) or not all(isinstance(target, str) for target in _targets(lora)):
        raise UserError(f"{field}.targets: {lora.targets!r}; write {ALL_LINEAR}, or a list of layer names")
    if spec.objective != "language_modeling":
        raise UserError(f"{field}: {spec.objective} trains without the LLM; remove lora")
    require_peft(field)


def require_peft(what: str) -> None:
    """Raise UserError where PEFT, an optional dependency, is not installed; `what` asks for it."""
    if find_spec("peft") is None:
        raise UserError(f"{what}: needs peft, which is not installed; pip install 'proxyv[train]'")


def adapt(model: ProxyVForConditionalGeneration, spec: StageSpec, stage: str, start: Path | None, folder: Path) -> None:
    """Put the adapters of a stage's `lora` into the model, in place; nothing without `lora`.

    Args:
        start: folder that holds the model as it is now. None: nobody has it yet, and it is kept in `folder`/base,
            because an adapter is worth nothing without its base.

    Raises UserError where a target fits no layer, or adapters lie on a group that is not in the stage's `train`.
    """
    if spec.lora is None:
        return
    from peft import LoraConfig

    targets = find_targets(model, spec.lora, stage)
    for group in sorted({model.module_group(name) for name in targets} - set(spec.train)):
        raise UserError(f"stages.{stage}.train: lora puts adapters on '{group}'; add it, or change lora.targets")
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
    for target in _targets(lora):
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


def _targets(lora: LoRASpec) -> list[Any]:
    if isinstance(lora.targets, str):
        return [lora.targets]
    return list(lora.targets) if isinstance(lora.targets, list) else []


def inject(model: ProxyVForConditionalGeneration, config: Any) -> None:
    """Put fresh adapters (a PEFT LoraConfig's) into the model, in place, in the model's own precision."""
    from peft import inject_adapter_in_model

    dtype = model.dtype
    inject_adapter_in_model(config, model, NAME)
    mine = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if name in mine:
            parameter.data = parameter.data.to(dtype)


def _keep_base(model: ProxyVForConditionalGeneration, folder: Path) -> Path:
    """Save the model in `folder`/base, all at once, unless it is there; only the main process writes."""
    from proxyv.processes import is_main

    base, partial = folder / BASE, folder / f".{BASE}"
    if is_main() and not base.exists():
        model.save_pretrained(partial)
        partial.rename(base)
    return base


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters lie in the model."""
    return hasattr(model, "peft_config")


def adapter_parameters(model: nn.Module) -> set[str]:
    """Names of the adapters' parameters; none without adapters."""
    return {
        f"{name}.{inner}"
        for name, layer in _adapted_layers(model).items()
        for inner, _ in layer.named_parameters()
        if not inner.startswith("base_layer.")
    }


def adapted_groups(model: ProxyVForConditionalGeneration) -> set[str]:
    """Module groups in which adapters lie; in these nothing else trains."""
    groups = {model.module_group(name) for name in _adapted_layers(model)}
    assert groups <= set(MODULE_GROUPS)
    return groups


@torch.no_grad()
def merge_adapters(model: ProxyVForConditionalGeneration) -> None:
    """Add the adapters to their layers' weights and take them out, in place; nothing without adapters."""
    for name, layer in _adapted_layers(model).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if has_adapters(model):
        del model.peft_config


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that PEFT has put in place, by name."""
    if not has_adapters(model):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
