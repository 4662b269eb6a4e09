"""From a trained or converted model to a folder for the Hugging Face hub: weights, configuration, processor, recipe,
and a model card that is filled from the run's own files.

No code travels with the folder. `auto_map` copies files that are imported relatively from the model's own file, into
one flat folder; this package has rooms that import each other by name, so a copy of that kind could not be imported.
The card says that loading needs proxyv installed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import OmegaConf

import proxyv
from proxyv.checkpoints.adapter_folder import is_adapter_folder
from proxyv.checkpoints.run_folder import RECIPE, find_model, read_recipe, run_of
from proxyv.convert.folder import meta_model
from proxyv.convert.plan import ConversionPlan, Part, Tensors
from proxyv.convert.tower import tower_translation
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError
from proxyv.model import ProxyVConfig, ProxyVProcessor
from proxyv.report.runs import find_runs
from proxyv.report.tables import tabulate, to_markdown

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
_HOMEPAGE = "https://arxiv.org/abs/2505.15816"


def export(model: str | Path, target: str | Path, *, hub_name: str | None = None, license_id: str = "other") -> Path:
    """Write the hub folder of a model; the weights are copied as they are.

    Args:
        model: run folder, or model folder (its run folder is found above it).
        target: folder to write; must be empty or absent.
        hub_name: `owner/name` on the hub, for the card; default: the name of `target`.
        license_id: the weights' licence as the hub spells it. It follows from the parts the model was made of.

    Raises UserError where there is no complete model, or its weights do not fit its configuration.
    """
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
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != ProxyVConfig.model_type:
        raise UserError(f"{folder}: model_type '{model_type}' is not proxyv's; convert it first")
    try:
        ProxyVProcessor.from_pretrained(folder)
    except OSError as error:
        raise UserError(f"{folder}: has no processor; save it beside the weights") from error
    config = ProxyVConfig.from_pretrained(folder)
    model = meta_model(config)
    tower = tower_translation(model)

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        inner = name.removeprefix("vision_tower.")
        return {name: tensor} if inner == name else tower(inner, tensor)

    ConversionPlan(str(folder), model, [Part(find_weights(folder), translate)], torch.float32).check()
    return config


def base_models(recipe: Mapping[str, Any]) -> list[str]:
    """Hub ids of the pretrained parts that a recipe names; folders of this machine are left out."""
    named = [(recipe.get(part) or {}).get("pretrained") for part in ("llm", "vision")]
    return [
        name for name in named if name and name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()
    ]


def results_table(run: Path | None) -> str:
    """The run's results in Markdown, as `proxyv report` writes them."""
    try:
        return to_markdown(tabulate(find_runs([run]))) if run else "No results are recorded with this model.\n"
    except UserError:
        return "No results are recorded with this model.\n"


def license_note(bases: list[str], license_id: str) -> str:
    """What holds for the weights and for the code."""
    derived = f"They are derived from {' and '.join(bases)}, whose licences apply to them." if bases else ""
    return (
        f"Weights: {license_id}. {derived}\n"
        "Data that the model was trained on may carry terms of its own.\n"
        "Code: the proxyv package, which is not part of this folder, is under the Apache License 2.0.\n"
    )


def model_card(
    name: str,
    config: ProxyVConfig,
    recipe: Mapping[str, Any],
    bases: list[str],
    results: str,
    license_id: str,
) -> str:
    """The README.md of the hub folder, its YAML front matter first."""
    front: dict[str, Any] = {
        "library_name": "proxyv",
        "pipeline_tag": "image-text-to-text",
        "license": license_id,
        "tags": ["proxyv", "vision-language", "multimodal"],
    }
    if bases:
        front["base_model"] = bases
    method = ", ".join(f"{key} {value}" for key, value in config.method.items())
    text, vision = config.text_config, config.vision_config
    return _CARD.format(
        front=OmegaConf.to_yaml(OmegaConf.create(front)).strip(),
        title=name.split("/")[-1],
        name=name,
        paper=_HOMEPAGE,
        method=method,
        llm=f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
        tower=f"{vision.model_type}, {vision.image_size} px, {config.tokens_per_crop} vision tokens per crop",
        newlines=config.newline_positions,
        recipe=_recipe_section(recipe),
        results=results.strip(),
        proxyv=proxyv.__version__,
        transformers=transformers.__version__,
    )


def _recipe_section(recipe: Mapping[str, Any]) -> str:
    """Recipe name and one line a stage; the whole of it lies beside the card."""
    if not recipe:
        return "The folder it was exported from holds no recipe."
    names = recipe.get("run_stages") or list(recipe.get("stages") or {})
    lines = [f"Recipe `{recipe.get('name')}`, in full in `recipe.yaml`; seed {recipe.get('seed')}.", ""]
    for name in names:
        stage = recipe["stages"][name]
        length = f"{stage['steps']} steps" if stage.get("steps") else f"{stage.get('epochs')} epochs"
        lines.append(
            f"- **{name}**: trains {', '.join(stage['train'])} on {', '.join(stage['data'])}; learning rate "
            f"{stage['learning_rate']}, batch {stage['global_batch_size']}, {length}"
        )
    return "\n".join(lines)


_CARD = """\
---
{front}
---

# {title}

A vision-language model of the [ProxyV]({paper}) family: it spends less computation on vision tokens without dropping
them.

| | |
|---|---|
| method | {method} |
| LLM | {llm} |
| vision tower | {tower} |
| newline positions | {newlines} |

## Load it

The folder holds no code: install the `proxyv` package from its repository first, then

```python
from PIL import Image
from proxyv import ProxyVForConditionalGeneration, ProxyVProcessor

model = ProxyVForConditionalGeneration.from_pretrained("{name}").eval()
processor = ProxyVProcessor.from_pretrained("{name}")
question = [{{"role": "user", "content": "<image>\\nWhat does the image show?"}}]
text = processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
inputs = processor(text=text, images=Image.open("image.png"))
output = model.generate(**inputs, do_sample=False, max_new_tokens=64)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

or `proxyv generate FOLDER --image image.png --prompt "What does the image show?"`.

## What does not work

- `AutoModel…` without proxyv imported, and `trust_remote_code`: there is no remote code.
- vLLM, SGLang, TGI, llama.cpp, Ollama and TensorRT-LLM do not know this architecture.

## Recipe

{recipe}

## Results

{results}

Exported with proxyv {proxyv} and transformers {transformers}.
"""
