"""From a trained or converted model to a folder for the Hugging Face hub: weights, configuration, processor, recipe,
and the model card (model_card.py).

No code travels with the folder. `auto_map` copies files that are imported relatively from the model's own file, into
one flat folder; this package has rooms that import each other by name, so a copy of that kind could not be imported.
The card says that loading needs proxyv installed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch

from proxyv.checkpoints.adapter_folder import is_adapter_folder
from proxyv.checkpoints.model_card import base_models, license_note, model_card, results_table
from proxyv.checkpoints.run_folder import RECIPE, find_model, read_recipe, run_of
from proxyv.convert.folder import meta_model
from proxyv.convert.plan import ConversionPlan, Part, Tensors
from proxyv.convert.tower import tower_translation
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError, naming
from proxyv.files import read_json
from proxyv.model import ProxyVConfig, ProxyVProcessor
from proxyv.model.generation_settings import check_generation
from proxyv.model.processing import check_fit
from proxyv.model.sources import SAVE_AGAIN

_PATTERNS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "model*.safetensors",
    "model.safetensors.index.json",
)


def export(model: str | Path, target: str | Path, *, hub_name: str | None = None, license_id: str = "other") -> Path:
    """Write the hub folder of a model; the weights are copied as they are.

    Args:
        model: run folder, or model folder (its run folder is found above it).
        target: folder to write; must be empty or absent.
        hub_name: `owner/name` on the hub, for the card; default: the name of `target`.
        license_id: the weights' licence as the hub spells it. It follows from the parts the model was made of.

    Raises UserError where there is no complete model, or its weights do not fit its configuration.
    """
    if hub_name is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_name, re.ASCII):
        raise UserError(f"hub_name: {hub_name!r} is no name on the hub; write it as owner/name")
    folder, target = find_model(model), Path(target)
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise UserError(f"{target}: is not empty; name another folder to write")
    if is_adapter_folder(folder):
        raise UserError(f"{folder}: holds an adapter, no whole model; run `proxyv merge` first")
    config = _check_complete(folder)
    run = run_of(folder)
    recipe = read_recipe(run)
    bases = base_models(recipe)
    card = model_card(hub_name or target.name, config, recipe, bases, results_table(run), license_id)
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted({file for pattern in _PATTERNS for file in folder.glob(pattern)}):
        shutil.copyfile(file, target / file.name)
    if run:
        shutil.copyfile(run / RECIPE, target / RECIPE)
    (target / "README.md").write_text(card, encoding="utf-8")
    (target / "LICENSE").write_text(license_note(bases, license_id), encoding="utf-8")
    return target


def _check_complete(folder: Path) -> ProxyVConfig:
    """The model's configuration, after a look at its processor and its weights' names and shapes.

    Raises UserError where one of them is missing or does not fit.
    """
    model_type = read_json(folder / "config.json", SAVE_AGAIN).get("model_type")
    if model_type != ProxyVConfig.model_type:
        raise UserError(f"{folder}: model_type '{model_type}' is not proxyv's; convert it first")
    processor, config = ProxyVProcessor.from_pretrained(folder), ProxyVConfig.from_pretrained(folder)
    check_generation(folder)
    with naming(folder):
        check_fit(config, processor)
        model = meta_model(config)
    tower = tower_translation(model)

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        inner = name.removeprefix("vision_tower.")
        return {name: tensor} if inner == name else tower(inner, tensor)

    ConversionPlan(str(folder), model, [Part(find_weights(folder), translate)], torch.float32).check()
    return config
