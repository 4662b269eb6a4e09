"""From a recipe to a model and its processor."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from proxyv.config import Recipe
from proxyv.errors import UserError, reading
from proxyv.model.attention import require_back_end
from proxyv.model.character_tokenizer import make_character_tokenizer
from proxyv.model.chat_tokens import check_control_tokens, fitting_template, set_padding
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import PAPER_GRID, ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.normalisation import normalisation
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.recipe_configs import text_config, vision_config
from proxyv.model.registry import make_method
from proxyv.model.sources import CONVERT, check_folder, check_source, check_weights, load_tokenizer
from proxyv.model.templates import chat_template
from proxyv.model.vision import grid_side
from proxyv.pages import QUESTION_WORDS, TEXT_CHARACTERS


def build_config(recipe: Recipe, image_token_id: int | None = None) -> ProxyVConfig:
    """The model's configuration. `image_token_id` defaults to the first id beyond the LLM's vocabulary.

    Raises UserError where a field does not fit, or the attention back-end is not installed.
    """
    text = text_config(recipe.llm)
    config = ProxyVConfig(
        text_config=text,
        vision_config=vision_config(recipe.vision),
        method=recipe.method,
        image_token_id=text.vocab_size if image_token_id is None else image_token_id,
        feature_layer=recipe.vision.feature_layer,
        newline_positions=recipe.vision.newline_positions,
    )
    require_back_end(recipe.attention)
    config._attn_implementation = recipe.attention
    return config


def build_model(
    recipe: Recipe, *, image_token_id: int | None = None, device: str = "cpu", weights: bool = True
) -> ProxyVForConditionalGeneration:
    """The recipe's model.

    Args:
        image_token_id: as in `build_config`.
        device: "meta" builds shapes only, of any size, in seconds.
        weights: load the pretrained tower and LLM that the recipe names; else everything is random.

    Raises UserError where a field does not fit, or a pretrained part cannot be found.
    """
    config = build_config(recipe, image_token_id)
    place: Any = torch.device(device) if device == "meta" else contextlib.nullcontext()
    with place:
        model = ProxyVForConditionalGeneration(config)
    if weights and device != "meta":
        _load_part(model, "vision_tower", recipe.vision.pretrained, "vision.pretrained")
        _load_part(model, "language_model", recipe.llm.pretrained, "llm.pretrained")
    return model if device in ("cpu", "meta") else model.to(device)


def _load_part(model: ProxyVForConditionalGeneration, part: str, source: str | None, field: str) -> None:
    """Copy pretrained weights into a part, read by the part's own class; modules that a method added keep their
    fresh weights. Raises UserError for missing, unused and misshapen weights."""
    if source is None:
        return
    check_source(source, field)
    check_folder(source)
    check_weights(source)
    module = model.get_submodule(part)
    with reading(f"{field}: '{source}'", f"give a folder of safetensors or a reachable hub id of one; {CONVERT}"):
        loaded = cast(Any, type(module)).from_pretrained(source, use_safetensors=True, trust_remote_code=False)
    try:
        result = module.load_state_dict(loaded.state_dict(), strict=False)
    except RuntimeError as error:  # shapes
        raise UserError(f"{field}: '{source}' does not fit the configuration: {error}") from error
    missing = [key for key in result.missing_keys if model.module_group(f"{part}.{key}") != "method"]
    if missing or result.unexpected_keys:
        raise UserError(
            f"{field}: '{source}' does not fit the configuration; missing {sorted(missing)}, "
            f"unused {sorted(result.unexpected_keys)}"
        )


def build_processor(recipe: Recipe) -> ProxyVProcessor:
    """The recipe's processor: tokenizer with its padding token, chat template, image settings.

    Raises UserError where the tokenizer cannot be loaded or has no padding token, or the chat template is unknown or
    needs tokens that the tokenizer does not have.
    """
    tokenizer = _tokenizer(recipe)
    if recipe.llm.pad_token is not None:
        set_padding(tokenizer, recipe.llm.pad_token)
    template = chat_template(recipe.llm.chat_template or fitting_template(tokenizer))
    processor = ProxyVProcessor(image_processor(recipe), tokenizer, template)
    check_control_tokens(processor)
    return processor


def image_processor(recipe: Recipe) -> ProxyVImageProcessor:
    """The image processor of a recipe's vision part, with the crops that its method allows."""
    vision, config = recipe.vision, vision_config(recipe.vision)
    mean, std = normalisation(vision)
    return ProxyVImageProcessor(
        crop_size=config.image_size,
        tokens_per_crop=grid_side(config) ** 2,
        image_mode=vision.image_mode,
        grid=make_method(recipe.method).limit_grid(vision.grid or PAPER_GRID),
        image_mean=mean,
        image_std=std,
    )


def switch_method(model: ProxyVForConditionalGeneration, processor: ProxyVProcessor, fields: dict[str, Any]) -> None:
    """As the model's own `switch_method`; its processor then makes the crops that the method allows, both in place.

    Raises UserError as the model's own does.
    """
    model.switch_method(fields)
    images = processor.image_processor
    images.grid = [list(pair) for pair in model.method.limit_grid(images.grid)]


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    source = recipe.llm.tokenizer or recipe.llm.pretrained
    if source == "characters":
        return make_character_tokenizer(TEXT_CHARACTERS, QUESTION_WORDS)
    if source is None:
        raise UserError("llm.tokenizer: name a tokenizer (hub id, folder, or 'characters')")
    return load_tokenizer(source, "llm.tokenizer")
