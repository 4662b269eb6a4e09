"""Module groups: which parameters train, and at which rate."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from proxyv.config import ModuleGroup, StageSpec
from proxyv.errors import UserError
from proxyv.model.lora import adapted_groups, adapter_parameters
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration
from proxyv.model.vision import patch_features


def set_trainable(model: ProxyVForConditionalGeneration, spec: StageSpec, stage: str) -> None:
    """Let the stage's module groups train and freeze the rest; a group with adapters trains through them alone.

    Tower layers behind the feature layer stay frozen: they get no gradient, and processes that train together
    would wait for one. Raises UserError where nothing trains.
    """
    model.requires_grad_(False)
    adapters, adapted = adapter_parameters(model), adapted_groups(model)
    for name, parameter in model.named_parameters():
        group = model.module_group(name)
        parameter.requires_grad_(group in spec.train and (name in adapters or group not in adapted))
    if "tower" in spec.train:
        for parameter in _without_gradient(model):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"stages.{stage}.train: no parameter is in {spec.train}; name one of {', '.join(MODULE_GROUPS)}"
        )


def _without_gradient(model: ProxyVForConditionalGeneration) -> list[nn.Parameter]:
    """The tower's parameters that the features of one blank crop do not depend on."""
    config = model.config.vision_config
    parameters = list(model.vision_tower.parameters())
    blank = parameters[0].new_zeros(1, config.num_channels, config.image_size, config.image_size)
    features = patch_features(model.vision_tower, blank, model.config.feature_layer)
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def rate_of(spec: StageSpec, group: str) -> float:
    """A module group's peak learning rate."""
    return spec.group_learning_rate.get(cast(ModuleGroup, group), spec.learning_rate)


def inner_matrices(model: ProxyVForConditionalGeneration) -> set[torch.Tensor]:
    """Weights (out, in) of linear layers between embedding and output head: what Muon is made for."""
    head = model.get_output_embeddings()
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return {module.weight for module in linear}


def parameter_groups(
    named: list[tuple[str, nn.Parameter]], inner: set[torch.Tensor], spec: StageSpec
) -> list[dict[str, Any]]:
    """Optimiser groups: for each module group its inner matrices, its other matrices, and the rest.

    Biases, norms and the newline get no weight decay.

    named: (module group, parameter) of everything that trains.
    """
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for group, parameter in named:
        groups.setdefault((group, parameter in inner, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "name": group,
            "inner": is_inner,
            "params": parameters,
            "lr": rate_of(spec, group),
            "weight_decay": spec.weight_decay if is_matrix else 0.0,
        }
        for (group, is_inner, is_matrix), parameters in groups.items()
    ]


def parameter_table(model: ProxyVForConditionalGeneration, spec: StageSpec) -> list[dict[str, Any]]:
    """One row a module group: name, trainable and total parameters, peak learning rate (None: frozen), and the rank
    of its adapters (None: without)."""
    adapted = adapted_groups(model)
    rows: dict[str, dict[str, Any]] = {
        name: {"group": name, "trainable": 0, "total": 0, "learning_rate": None, "lora_rank": None}
        for name in MODULE_GROUPS
    }
    for name, parameter in model.named_parameters():
        group = model.module_group(name)
        rows[group]["total"] += parameter.numel()
        rows[group]["trainable"] += parameter.numel() * parameter.requires_grad
    for name, row in rows.items():
        if row["trainable"]:
            row["learning_rate"] = rate_of(spec, name)
        if spec.lora is not None and name in adapted:
            row["lora_rank"] = spec.lora.rank
    return list(rows.values())


def show_table(rows: list[dict[str, Any]]) -> str:
    """The table as text; a group without parameters (the method `full`) says so."""
    lines = [f"{'group':<10} {'trainable':>16} {'total':>16}  learning rate"]
    for row in rows:
        rate = "-" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        rate = rate if row["total"] else "no parameters"
        rate += "" if row["lora_rank"] is None else f" (LoRA, rank {row['lora_rank']})"
        lines.append(f"{row['group']:<10} {row['trainable']:>16,} {row['total']:>16,}  {rate}")
    return "\n".join(lines)
