"""A trained model with all that came with it: run folder → model, processor, recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyv.checkpoints.adapter_folder import is_adapter_folder, load_model
from proxyv.checkpoints.run_folder import find_model, read_recipe, run_of
from proxyv.environment import find_device
from proxyv.errors import naming
from proxyv.model import ProxyVForConditionalGeneration, ProxyVProcessor
from proxyv.model.attention import require_back_end
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.dtypes import find_dtype
from proxyv.model.lora import merge_adapters
from proxyv.model.processing import check_fit
from proxyv.model.quantisation import quantised_loading

AUTO = "auto"  # the precision that a model was saved in


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, and the resolved recipe it was trained by (empty where the folder has none)."""

    run: Path
    model: ProxyVForConditionalGeneration
    processor: ProxyVProcessor
    recipe: dict[str, Any]


def recipe_of(path: str | Path) -> dict[str, Any]:
    """The resolved recipe that the model of a folder was trained by, without the model; empty where there is none.

    Raises UserError where there is no model, or the recipe is damaged.
    """
    return read_recipe(run_of(find_model(path)))


def run_folder(path: str | Path) -> Path:
    """The folder that a model's results lie in: its run, or the model's own folder where it has none.

    Raises UserError where there is no model.
    """
    folder = find_model(path)
    return run_of(folder) or folder


def load_for_evaluation(
    path: str | Path,
    device: str | None = None,
    dtype: str = "auto",
    attention: str | None = None,
    load_in: str | None = None,
) -> Loaded:
    """Load the model of a run folder, of a model folder, or of an adapter folder.

    Args:
        device: default: cuda where there is one, else cpu.
        dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
        attention: a back-end; None: sdpa, or eager where the LLM caps its scores.
        load_in: "8bit" or "4bit": quantise the LLM's layers, and nothing else; None: do not.

    Raises UserError where there is no model, or the weights do not fit. What can be seen without weights comes first.
    """
    precision = AUTO if dtype == AUTO else find_dtype(dtype, also=[AUTO])
    if attention is not None:
        require_back_end(attention)
    folder = find_model(path)
    run = run_of(folder) or folder
    place, options = find_device(device), {"dtype": precision, "attn_implementation": attention}
    processor = ProxyVProcessor.from_pretrained(folder)
    with naming(folder):
        check_fit(ProxyVConfig.from_pretrained(folder), processor)
    if load_in is None:
        model = load_model(folder, **options).to(place)
    else:
        model = load_quantised(folder, load_in, place, options)
    return Loaded(run, model.eval(), processor, read_recipe(run))


def load_quantised(folder: Path, load_in: str, device: str, options: dict[str, Any]) -> ProxyVForConditionalGeneration:
    """As `load_model`, with the LLM's layers in "8bit" or "4bit". Adapters are merged first, in full precision."""
    options = options | quantised_loading(ProxyVConfig.from_pretrained(folder), load_in, device, options["dtype"])
    if not is_adapter_folder(folder):
        return ProxyVForConditionalGeneration.from_pretrained(folder, **options)
    whole = load_model(folder, dtype=torch.float32)
    merge_adapters(whole)
    return ProxyVForConditionalGeneration.from_pretrained(
        None, config=whole.config, state_dict=whole.state_dict(), **options
    )
