"""The model card of an exported folder, filled from the run's own files, and the note on licences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from omegaconf import OmegaConf

import proxyv
from proxyv.model import ProxyVConfig
from proxyv.model.catalogue import CatalogueEntry, entry_of
from proxyv.model.registry import make_method
from proxyv.report.runs import runs_below
from proxyv.report.tables import tabulate, to_markdown

_HOMEPAGE = "https://arxiv.org/abs/2505.15816"


def base_models(recipe: Mapping[str, Any]) -> list[str]:
    """Hub ids of the pretrained parts that a recipe names; folders of this machine are left out."""
    named = [(recipe.get(part) or {}).get("pretrained") for part in ("llm", "vision")]
    return [
        name for name in named if name and name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()
    ]


def results_table(run: Path | None) -> str:
    """The run's results in Markdown, as `proxyv report` writes them. Raises UserError where they are damaged."""
    runs = runs_below([run]) if run else []
    return to_markdown(tabulate(runs)) if runs else "No results are recorded with this model.\n"


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
    entry = entry_of(make_method(config.method))
    text, vision = config.text_config, config.vision_config
    return _CARD.format(
        front=OmegaConf.to_yaml(OmegaConf.create(front)).strip(),
        title=name.split("/")[-1],
        name=name,
        paper=_HOMEPAGE,
        method=method,
        method_name=entry.name,
        does=_what_it_does(entry),
        llm=f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
        tower=f"{vision.model_type}, {vision.image_size} px, {config.tokens_per_crop} vision tokens per crop",
        newlines=config.newline_positions,
        recipe=_recipe_section(recipe),
        results=results.strip(),
        proxyv=proxyv.__version__,
        transformers=transformers.__version__,
    )


def _what_it_does(entry: CatalogueEntry) -> str:
    """A method's sentence in the catalogue, behind a colon, with its paper."""
    sentence = f"{entry.one_line[:1].lower()}{entry.one_line[1:]}"
    return f"{sentence} ([arXiv {entry.arxiv}]({entry.link}))" if entry.link else sentence


def _recipe_section(recipe: Mapping[str, Any]) -> str:
    """Recipe name and one line a stage; the whole of it lies beside the card."""
    if not recipe:
        return "The folder it was exported from holds no recipe."
    names = recipe.get("run_stages") or list(recipe.get("stages") or {})
    lines = [f"Recipe `{recipe.get('name')}`, in full in `recipe.yaml`; seed {recipe.get('seed')}.", ""]
    for name in names:
        stage = recipe["stages"][name]
        batch = stage.get("global_batch_size") or f"{stage.get('micro_batch_size')} of each process"
        length = f"{stage['steps']} steps" if stage.get("steps") else f"{stage.get('epochs')} epochs"
        lines.append(
            f"- **{name}**: trains {', '.join(stage['train'])} on {', '.join(stage['data'])}; learning rate "
            f"{stage['learning_rate']}, batch {batch}, {length}"
        )
    return "\n".join(lines)


_CARD = """\
---
{front}
---

# {title}

A vision-language model of the [proxyv]({paper}) codebase, with the method `{method_name}`: {does}

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
