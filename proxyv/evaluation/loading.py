"""A trained model with all that came with it: run folder → model, processor, recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from PIL import Image

from proxyv.adapters import is_adapter_folder, load_model, merge_adapters
from proxyv.config import read_yaml
from proxyv.environment import default_device
from proxyv.errors import UserError
from proxyv.model import ProxyVForConditionalGeneration, ProxyVProcessor
from proxyv.model.attention import require_back_end
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.quantisation import quantised_loading
from proxyv.train import find_model

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, and the resolved recipe it was trained by (empty where the folder has none)."""

    run: Path
    model: ProxyVForConditionalGeneration
    processor: ProxyVProcessor
    recipe: dict[str, Any]


def load_for_evaluation(
    path: str | Path,
    device: str | None = None,
    dtype: str = "auto",
    attention: str = "sdpa",
    load_in: str | None = None,
) -> Loaded:
    """Load the model of a run folder, of a model folder, or of an adapter folder.

    Args:
        device: default: cuda where there is one, else cpu.
        dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
        load_in: "8bit" or "4bit": quantise the LLM's layers, and nothing else; None: do not.

    Raises UserError where there is no model, or the weights do not fit.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: '{dtype}' is unknown; use {', '.join(DTYPES)}")
    require_back_end(attention)
    folder = find_model(path)
    run = next((parent for parent in (folder, *folder.parents[:2]) if (parent / "recipe.yaml").is_file()), folder)
    recipe = OmegaConf.to_container(read_yaml(run / "recipe.yaml")) if (run / "recipe.yaml").is_file() else {}
    place, options = device or default_device(), {"dtype": DTYPES[dtype], "attn_implementation": attention}
    if load_in is None:
        model = load_model(folder, **options).to(place)
    else:
        model = load_quantised(folder, load_in, place, options)
    processor = ProxyVProcessor.from_pretrained(folder)
    return Loaded(run, model.eval(), processor, cast("dict[str, Any]", recipe))


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


def answer(loaded: Loaded, prompt: str, images: Sequence[str], max_new_tokens: int) -> str:
    """The model's greedy answer to one question about picture files, put in front where the prompt has no
    `<image>` mark. Raises UserError where a file is missing or is no picture."""
    if "<image>" not in prompt:
        prompt = "<image>\n" * len(images) + prompt
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    inputs = loaded.processor(text=[text], images=[[_open(image) for image in images]]).to(loaded.model.device)
    output = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    new = output[:, inputs["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip()


def _open(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"--image {path}: no such file; give the path of a picture") from error
    except OSError as error:
        raise UserError(f"--image {path}: not a readable picture ({error}); give another file") from error
