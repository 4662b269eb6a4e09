"""What one run of the LLM takes: embeddings in reading order, positions, mask, and a cache that knows its rows.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from proxyv.constants import IGNORE_INDEX
from proxyv.errors import UserError
from proxyv.model.attention import BACK_ENDS, mask_for
from proxyv.model.cache import (
    CachedRows,
    CachedRowsLayer,
    DecodeRows,
    cached_rows_layer,
    over_cached_keys,
    set_cached_rows,
)
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.layout import Layout, make_layout
from proxyv.model.method import Plan, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import gather_rows
from proxyv.model.sub_configs import position_limit


@dataclass(frozen=True)
class LLMInputs:
    """One run of the LLM."""

    embeddings: torch.Tensor  # (B, L, D)
    position_ids: torch.Tensor | None  # (B, L) int64; None: the LLM counts them
    attention_mask: Any  # (B, cached + L) or (B, 1, L, L), as the back-end reads it; None: no padding
    cache: Cache | None
    labels: torch.Tensor | None = None  # (B, L) int64
    plan: Plan | None = None  # a method's, for a prompt with images
    layout: Layout | None = None  # of a prompt with images: which row is what
    decode_rows: DecodeRows | None = None  # behind a cache that knows its rows


def make_prompt(
    config: ProxyVConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    crops_per_image: torch.Tensor | Sequence[int] | None,
    cache: Cache | None = None,
    labels: torch.Tensor | None = None,
) -> Prompt:
    """A prompt with images and its layout.

    Args:
        input_ids: (B, L) int64, with placeholders.
        attention_mask: (B, L), 0 at padding; None: no padding.
        crops_per_image: (I,) int64 or ints.
        cache: what the prompt's keys and values will go into.
        labels: (B, L) int64, −100 where not supervised.

    Raises UserError where something is missing, shapes differ, placeholders and images do not match, or the cache is
    not empty.
    """
    if input_ids is None or crops_per_image is None:
        raise UserError("pixel_values need input_ids and crops_per_image; use ProxyVProcessor's output whole")
    if cache is not None and cache.get_seq_length() > 0:
        raise UserError("new images cannot join a running cache; send the whole conversation once more")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise UserError(
            f"attention_mask: shape {tuple(attention_mask.shape)} must be that of input_ids, "
            f"{tuple(input_ids.shape)}, for a prompt with images"
        )
    check_length(config.text_config, input_ids.shape[1], attention_mask)
    counts = crops_per_image.tolist() if isinstance(crops_per_image, torch.Tensor) else crops_per_image
    is_image = input_ids == config.image_token_id
    layout = make_layout(is_image, attention_mask, counts, config.tokens_per_crop, config.newline_positions, labels)
    return Prompt(input_ids, layout)


def check_images_given(
    config: ProxyVConfig,
    input_ids: torch.Tensor | None,
    pixel_values: torch.Tensor | None,
    cache: Cache | None = None,
) -> None:
    """Raise UserError for placeholders in input_ids (B, L) without images. Behind a filled cache nobody looks: decoding
    steps must not wait for the device."""
    if pixel_values is not None or input_ids is None or (cache is not None and cache.is_initialized):
        return
    if bool((input_ids == config.image_token_id).any()):
        raise UserError(
            "pixel_values: missing, but input_ids hold image placeholders; use ProxyVProcessor's output whole"
        )


def check_length(text_config: PreTrainedConfig, width: int, attention_mask: torch.Tensor | None) -> None:
    """Raise UserError where a sample has more rows than the LLM has positions.

    Args:
        width: rows of the batch, padding included.
        attention_mask: (B, width); None: no padding.
    """
    most = position_limit(text_config)
    if width > most:  # only then is it worth a look at where the padding is
        longest = width if attention_mask is None or attention_mask.dim() != 2 else int(attention_mask.sum(1).max())
        if longest > most:
            raise UserError(
                f"prompt: {longest:,} rows, images included, are more than the {most:,} positions that the LLM was "
                "made for (max_position_embeddings); shorten it, or use fewer or smaller images"
            )


def text_inputs(
    llm: PreTrainedModel,
    embeddings: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    cache: Cache | None,
    labels: torch.Tensor | None,
) -> LLMInputs:
    """A text-only prompt, or the next tokens behind a cache.

    Args:
        embeddings: (B, L, D); all else as in the model's `forward`.

    Raises UserError for a prompt with more rows than the LLM has positions, and for padding behind a cache with
    dropped vision tokens.
    """
    if cache is None or not cache.get_seq_length():
        check_length(llm.config, embeddings.shape[1], attention_mask)
    inputs = LLMInputs(embeddings, position_ids, attention_mask, cache, labels)
    if cache is None or not any(isinstance(layer, CachedRowsLayer) for layer in cache.layers):
        return inputs
    new = embeddings.shape[1]
    if new > 1 and attention_mask is not None and not bool(attention_mask[..., -new:].all()):
        raise UserError("attention_mask: padding behind a cache with dropped vision tokens; send turns one by one")
    first = cached_rows_layer(cache, 0)
    if first is not None:
        inputs = replace(inputs, position_ids=first.positions(new), attention_mask=first.valid_with(new))
    return replace(inputs, decode_rows=DecodeRows(llm, cache, embeddings))


def image_inputs(
    model: ProxyVPreTrainedModel,
    layout: Layout,
    text: torch.Tensor,
    vision: VisionTokens,
    cache: Cache | None,
    use_cache: bool | None,
    labels: torch.Tensor | None,
) -> tuple[LLMInputs, Layout]:
    """A prompt with images, before any plan, and its layout.

    Args:
        layout: of the prompt with P vision tokens a crop; it is resized to what `vision` has.
        text: (B, L, D) embeddings, anything at placeholders.
        vision: values (C, P', D).
        cache, use_cache, labels: as in the model's `forward`.

    Raises UserError where there are not as many crops as the layout has, for a cache that cannot know its rows, and
    for a back-end that cannot take the authors' newline positions.
    """
    tokens = vision.values.shape[1]
    if labels is not None:  # nothing predicts a sample's first row; dropping may put padding before it, which would
        labels = labels.masked_fill((layout.position_ids == 0).to(labels.device), IGNORE_INDEX)
    if tokens != layout.vision_rows.shape[1] or vision.counts is not None or vision.extra is not None:
        layout, index = layout.resized(tokens, vision.counts, 0 if vision.extra is None else vision.extra.shape[1])
        text = gather_rows(text, index)
        if labels is not None:
            labels = labels.to(index.device).gather(1, index).masked_fill(~layout.given, IGNORE_INDEX)
        if cache is not None or (model.config.text_config.use_cache if use_cache is None else use_cache):
            cache = _cache_of(layout, cache, model.config.text_config)
    embeddings = embed(text, vision, model.image_newline, layout)
    mask = _stock_mask(layout, embeddings, cast(str, model.language_model.config._attn_implementation), cache)
    positions = layout.position_ids.to(embeddings.device)
    return LLMInputs(embeddings, positions, mask, cache, labels, layout=layout), layout


def embed(text: torch.Tensor, vision: VisionTokens, newline: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Put vision tokens, newlines and extra vectors into their rows.

    Args:
        text: (B, L, D) embeddings; gives the dtype.
        vision: values (C, P, D), as many as the layout has rows for.
        newline: (D,).

    Returns (B, L, D).

    Raises UserError where there are not as many crops as the layout has.
    """
    crops = len(vision.values)
    if crops != len(layout.newline_rows):
        raise UserError(f"pixel_values: {crops} crops, but crops_per_image adds up to {len(layout.newline_rows)}")
    parts = [  # rows (n,), vectors (n, D)
        (layout.vision_rows.flatten(), vision.values.flatten(0, 1)),
        (layout.newline_rows, newline.expand(crops, -1)),
    ]
    if vision.extra is not None and layout.extra_rows is not None:
        parts.append((layout.extra_rows.flatten(), vision.extra.flatten(0, 1)))
    flat = text.flatten(0, 1)
    for rows, vectors in parts:  # newlines after vision tokens, see `Layout`
        flat = flat.index_copy(0, rows.to(flat.device), vectors.to(flat.dtype))
    return flat.view_as(text)


def _cache_of(layout: Layout, cache: Cache | None, text_config: PreTrainedConfig) -> Cache:
    """`cache`, or a new one, that knows the rows of a resized layout."""
    cache = DynamicCache(config=text_config) if cache is None else cache
    rows = CachedRows(layout.valid, layout.valid.sum(1), not bool(layout.valid.all()), layout.prompt_length)
    for index in range(text_config.num_hidden_layers):
        set_cached_rows(cache, index, rows)
    return cache


def _stock_mask(layout: Layout, embeddings: torch.Tensor, back_end: str, cache: Cache | None) -> Any:
    """What the stock LM gets as `attention_mask`. Raises UserError for a back-end that cannot take it."""
    mask = layout.stock_mask()
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask.to(embeddings.device)
    if back_end not in BACK_ENDS:
        raise UserError(f"attention: '{back_end}' cannot take the authors' newline positions; use sdpa or eager")
    return over_cached_keys(mask_for(mask.to(embeddings.device), back_end, embeddings.dtype), cache, layer=0)
