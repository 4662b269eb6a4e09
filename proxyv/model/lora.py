"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a model, by PEFT's layers: put in, found, merged.

The model stays a ProxyVForConditionalGeneration: PEFT's layers stand inside it, so the forward pass, `generate` and the
module groups are those of any model.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from proxyv.errors import UserError
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration

NAME = "default"  # of the one adapter; PEFT puts it into its parameters' names


def require_peft(what: str) -> None:
    """Raise UserError where PEFT, an optional dependency, is not installed; `what` names the setting or command that
    needs it."""
    if find_spec("peft") is None:
        raise UserError(f"{what}: needs peft, which is not installed; pip install 'proxyv[train]'")


def inject(model: ProxyVForConditionalGeneration, config: Any) -> None:
    """Put fresh adapters (a PEFT LoraConfig's) into the model, in place, in the model's own precision."""
    from peft import inject_adapter_in_model

    dtype = model.dtype
    inject_adapter_in_model(config, model, NAME)
    added = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if name in added:
            parameter.data = parameter.data.to(dtype)


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
