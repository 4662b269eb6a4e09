"""What an adapter folder holds, and how folders become models.

    config.json                          the model's configuration, its method included
    adapter/adapter_config.json          PEFT's format; `base_model_name_or_path` names the base's folder, relative
    adapter/adapter_model.safetensors    to this folder where both lie in one run
    trained.safetensors                  projector, newline, method, and whatever else was trained without adapters
    base/                                the base model, only where no earlier stage or `start_from` holds it
    (processor and tokenizer files)      as in a model folder

The adapter lies one folder down on purpose: beside config.json, Hugging Face's `from_pretrained` would take it for
all there is and silently leave out trained.safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from proxyv.errors import UserError, reading
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.lora import NAME, adapter_parameters, has_adapters, inject, merge_adapters, require_peft
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.sources import SAVE_AGAIN

ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINED = "trained.safetensors"
# Groups that a folder holds whole whether they were trained or not: a base may have another method, or none.
ALWAYS_KEPT = ("projector", "newline", "method")


def is_adapter_folder(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and what goes with it, instead of a whole model."""
    return (Path(folder) / ADAPTER / ADAPTER_CONFIG).is_file()


# ── saving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def save_model(
    model: ProxyVForConditionalGeneration,
    folder: Path,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    place: Path | None = None,
) -> None:
    """Save the model as what it is: a whole model, or an adapter folder (without the processor's files).

    Args:
        state_dict: the weights to save where they cannot be read off the model (sharded training).
        place: the folder that `folder` is going to be, from where an adapter refers to its base; None: itself.
    """
    if not has_adapters(model):
        model.save_pretrained(folder, state_dict=state_dict)
        return
    weights = model.state_dict() if state_dict is None else state_dict
    config = copy(vars(model)["peft_config"][NAME])
    config.base_model_name_or_path = _reference(Path(config.base_model_name_or_path), place or folder)
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    config.save_pretrained(folder / ADAPTER)
    _write(folder / ADAPTER / ADAPTER_WEIGHTS, weights, _adapter_names(model), {})
    groups = _kept_groups(model)
    _write(folder / TRAINED, weights, _kept_names(model, groups), {"groups": " ".join(sorted(groups))})


def _reference(base: Path, folder: Path) -> str:
    """A base of the same run by its relative path, so that a run may be moved; any other by its absolute one."""
    relative = Path(os.path.relpath(base, folder))
    return str(base.resolve() if relative.parts.count("..") > 2 else relative)


def _kept_groups(model: ProxyVForConditionalGeneration) -> set[str]:
    """Groups that go into trained.safetensors: our own, and those that train without adapters."""
    adapters = adapter_parameters(model)
    trained = (name for name, value in model.named_parameters() if value.requires_grad and name not in adapters)
    return {*ALWAYS_KEPT, *map(model.module_group, trained)}


def _kept_names(model: ProxyVForConditionalGeneration, groups: set[str]) -> dict[str, str]:
    """Name in the file → name in the model, of all weights of these groups outside the adapters.

    In the file a layer has its own name, in the model it may stand inside an adapted one.
    """
    adapters = adapter_parameters(model)
    names = [name for name in model.state_dict() if name not in adapters and model.module_group(name) in groups]
    return {".".join(part for part in name.split(".") if part != "base_layer"): name for name in names}


def _adapter_names(model: ProxyVForConditionalGeneration) -> dict[str, str]:
    """Name in the file, as PEFT has it → name in the model, of the adapters' weights."""
    return {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": name for name in adapter_parameters(model)}


def _write(file: Path, weights: Mapping[str, torch.Tensor], names: Mapping[str, str], metadata: dict[str, str]) -> None:
    """Write `weights` under the names that `names` gives them (name in the file → name in the model)."""
    tensors = {kept: weights[name].detach().clone().contiguous() for kept, name in names.items()}
    save_file(tensors, file, metadata={"format": "pt", **metadata})


# ── loading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_model(folder: str | Path, **options: Any) -> ProxyVForConditionalGeneration:
    """The model of a model folder, or of an adapter folder with its adapters in place.

    options: as for `from_pretrained` (dtype, attn_implementation, …). Raises UserError where weights do not fit.
    """
    if is_adapter_folder(folder):
        return load_adapter_folder(folder, **options)
    return ProxyVForConditionalGeneration.from_pretrained(folder, **options)


def load_adapter_folder(folder: str | Path, **options: Any) -> ProxyVForConditionalGeneration:
    """Base + adapters + the weights that were trained beside them, in eval mode.

    A base that is itself an adapter folder is loaded and merged first.
    Raises UserError where PEFT or the base is missing, or the folder's weights do not fit the base's.
    """
    folder = Path(folder)
    require_peft(str(folder))
    from peft import LoraConfig

    with reading(folder / ADAPTER / ADAPTER_CONFIG, SAVE_AGAIN):
        config = LoraConfig.from_pretrained(str(folder / ADAPTER))
    method = ProxyVConfig.from_pretrained(folder).method
    model = load_model(find_base(config.base_model_name_or_path, folder), **options)
    merge_adapters(model)
    with reading(folder / "config.json", SAVE_AGAIN):
        model.switch_method(method)
    with reading(folder / ADAPTER / ADAPTER_CONFIG, SAVE_AGAIN):
        inject(model, config)
    load_weights(model, folder)
    return model.eval()


def find_base(reference: Any, folder: Path) -> Path:
    """The base model's folder, whose path may be relative to the adapter folder. Raises UserError if it is gone, or
    would be its own base."""
    for path in (folder / str(reference), Path(str(reference))):
        if (path / "config.json").is_file() and not folder.resolve().is_relative_to(path.resolve()):
            return path
    raise UserError(
        f"{folder / ADAPTER / ADAPTER_CONFIG}: base_model_name_or_path: '{reference}' is no model folder; "
        "put the base model back, or fix the path"
    )


def load_weights(model: ProxyVForConditionalGeneration, folder: Path) -> None:
    """Copy an adapter folder's weights into a model that has its adapters already.

    Raises UserError that lists missing, unused and misshapen weights.
    """
    _copy(model, folder / ADAPTER / ADAPTER_WEIGHTS)
    _copy(model, folder / TRAINED)


def _copy(model: ProxyVForConditionalGeneration, file: Path) -> None:
    """Copy one file's weights into the model. Raises UserError where they do not fit, or cannot be read."""
    with reading(file, SAVE_AGAIN), safe_open(file, framework="pt") as opened:
        groups = set((opened.metadata() or {}).get("groups", "").split())
        values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    names = _kept_names(model, groups) if file.name == TRAINED else _adapter_names(model)
    here = model.state_dict()
    bad = {
        "missing": sorted(names.keys() - values.keys()),
        "unused": sorted(values.keys() - names.keys()),
        "misshapen": sorted(k for k in names.keys() & values.keys() if here[names[k]].shape != values[k].shape),
    }
    if any(bad.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in bad.items() if keys)
        raise UserError(f"{file}: the weights do not fit the model: {listed}")
    model.load_state_dict({names[name]: value for name, value in values.items()}, strict=False)
