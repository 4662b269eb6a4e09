"""The model that a stage starts from."""

from __future__ import annotations

from pathlib import Path

import torch

from proxyv.checkpoints.adapter_folder import load_model
from proxyv.checkpoints.run_folder import find_model
from proxyv.config import Recipe
from proxyv.model.build import build_model, build_processor, switch_method
from proxyv.model.lora import merge_adapters
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor, check_fit
from proxyv.model.turns import turn_tokens


def start_folder(recipe: Recipe, start: Path | None) -> Path | None:
    """The folder a stage starts from: the previous stage's, or the recipe's `start_from`; None: a fresh model.

    Raises UserError where `start_from` holds no model.
    """
    return start or (None if recipe.start_from is None else find_model(recipe.start_from))


def load_start(recipe: Recipe, start: Path | None) -> tuple[ProxyVForConditionalGeneration, ProxyVProcessor]:
    """The model to train, float32 on the CPU, with the recipe's method switched on, and its processor.

    Raises UserError where there is no model, it has another method, or the tokenizer does not fit it.
    """
    source = start_folder(recipe, start)
    if source is None:
        processor = build_processor(recipe)
        model = build_model(recipe, image_token_id=processor.image_token_id)
    else:
        processor = ProxyVProcessor.from_pretrained(source)
        model = load_model(source, dtype=torch.float32, attn_implementation=recipe.attention)
        merge_adapters(model)
        switch_method(model, processor, recipe.method)
    check_fit(model.config, processor)
    if "question" in model.method.needs:
        model.config.turn_tokens = dict(turn_tokens(processor))
    sanitise_generation(model)
    return model, processor


def sanitise_generation(model: ProxyVForConditionalGeneration) -> None:
    """Drop sampling settings from a generation configuration that does not sample: saving would refuse them."""
    config = model.generation_config
    if config is not None and not config.do_sample:
        for field in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(config, field, None)
