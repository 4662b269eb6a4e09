"""The files around the weights in a proxyv model folder: configuration, processor, generation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from proxyv.convert.plan import ConversionPlan
from proxyv.convert.preprocessing import normalisation
from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.sources import load_tokenizer
from proxyv.model.sub_configs import check_token_ids
from proxyv.model.templates import chat_template
from proxyv.model.vision import grid_side

# Family → chat template; None: the tokenizer's own. Llama 3 and Vicuna differ in the size of their vocabularies.
_TEMPLATES = {"llama": "vicuna_v1", "qwen2": "qwen", "phi3": "phi3", "mistral": None, "qwen3": None}
_LLAMA3_VOCABULARY = 128_000
# The token that closes a turn, where the LLM's configuration names only the end of the text.
_TURN_END = {"llama3": "<|eot_id|>", "qwen": "<|im_end|>", "phi3": "<|end|>", "internlm2": "<|im_end|>"}


def meta_model(config: ProxyVConfig) -> ProxyVForConditionalGeneration:
    """The model without memory: shapes only."""
    with torch.device("meta"):
        return ProxyVForConditionalGeneration(config)


def template_name(config: ProxyVConfig, wanted: str | None) -> str | None:
    """The chat template to use: `wanted`, else the one that the family's models were trained with."""
    if wanted is not None:
        return wanted
    text = config.text_config
    if text.model_type == "llama" and text.vocab_size >= _LLAMA3_VOCABULARY:
        return "llama3"
    return _TEMPLATES.get(text.model_type)


def read_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, with a padding token. Raises UserError where there is none."""
    tokenizer = load_tokenizer(source, "tokenizer beside the weights")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def make_processor(
    tokenizer: PreTrainedTokenizerBase,
    config: ProxyVConfig,
    anyres: bool,
    grid: Sequence[Sequence[int]] | None,
    template: str | None,
    images: Mapping[str, Any],
) -> ProxyVProcessor:
    """The processor of a converted model.

    Args:
        grid: allowed (columns, rows) in crops; None for a square alone.
        template: name of a shipped chat template; None: the tokenizer's own.
        images: settings of the checkpoint's own image processor, as far as they are known.

    Raises UserError where neither has a template.
    """
    if template is None and tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template and none is shipped for the family; name one with --chat_template"
        )
    size = config.vision_config.image_size
    image_processor = ProxyVImageProcessor(
        crop_size=size,
        tokens_per_crop=grid_side(config.vision_config) ** 2,
        image_mode="anyres" if anyres else "pad",
        grid=grid or [[1, 1]],
        **normalisation(images, config.vision_config),
    )
    return ProxyVProcessor(image_processor, tokenizer, None if template is None else chat_template(template))


def grid_of(pinpoints: Any, size: int, source: Path) -> list[list[int]] | None:
    """Pixel sizes (width, height) → (columns, rows). Raises UserError for anything but a list of pairs."""
    if pinpoints is None:
        return None
    pairs = pinpoints if isinstance(pinpoints, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in pairs):
        raise UserError(f"{source / 'config.json'}: image_grid_pinpoints must list (width, height) pairs of pixels")
    return [[width // size, height // size] for width, height in pinpoints]


def write_folder(
    plan: ConversionPlan, source: Path, target: Path, processor: ProxyVProcessor, template: str | None
) -> None:
    """Weights, configuration, generation settings and processor of a converted model."""
    model = plan.model
    assert isinstance(model, ProxyVForConditionalGeneration)
    model.config.image_token_id = processor.image_token_id
    model.config.dtype = plan.dtype
    model.config.architectures = [type(model).__name__]
    plan.write(target)
    model.config.save_pretrained(target)
    generation = model.generation_config
    assert generation is not None
    ids = _generation_ids(source)
    generation.update(**ids)
    ends = {*_as_list(model.config.text_config.eos_token_id), *_as_list(ids.get("eos_token_id"))} - {None}
    turn_end = _TURN_END.get(template or "")
    if turn_end in processor.tokenizer.get_vocab():
        ends.add(processor.tokenizer.convert_tokens_to_ids(turn_end))
    generation.eos_token_id = sorted(ends) or None
    generation.pad_token_id = processor.tokenizer.pad_token_id
    generation.save_pretrained(target)
    processor.save_pretrained(target)


def _generation_ids(source: Path) -> dict[str, Any]:
    """Token ids only: Vicuna's and other generation configs hold sampling fields that cannot be saved again."""
    path = source / "generation_config.json"
    found = read_json(path, "download it again") if path.is_file() else {}
    for key in ("bos_token_id", "eos_token_id"):
        check_token_ids(found.get(key), f"{path}: {key}")
    return {key: found[key] for key in ("bos_token_id", "eos_token_id") if found.get(key) is not None}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
