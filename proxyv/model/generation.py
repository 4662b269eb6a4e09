"""What generation needs to know of images: when they enter, how they multiply, and who must not see placeholders.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation import GenerationMode

from proxyv.errors import UserError
from proxyv.model.cache import cached_rows_layer
from proxyv.model.inputs import check_images_given
from proxyv.model.method import Method, Prompt


class ImageGenerationMixin(GenerationMixin):
    """Hugging Face's `generate` for a model whose prompts carry `pixel_values` and `crops_per_image`."""

    read_prompt: Callable[..., Prompt]  # the model's own
    method: Method

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of the next step; arguments as the model's `forward`.

        Images go to the prefill only (with no cache, to every step), and not to a turn that continues a conversation
        whose images are in the cache already.

        Raises UserError for padding on the right, for a cache that does not fit the tokens, and for placeholders
        without images.
        """
        if is_first_iteration:
            check_last_column(kwargs.get("attention_mask"))
        empty = False
        if is_first_iteration or kwargs.get("next_sequence_length") != 1:  # else a decoding step
            given = input_ids if inputs_embeds is None else inputs_embeds
            behind = columns_behind(kwargs, given, drafted=not is_first_iteration)
            empty = behind is None
            kwargs["next_sequence_length"] = kwargs.get("next_sequence_length") if empty else behind
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        new = inputs["input_ids"]
        # Placeholders behind a cache may also be drafts, copied from the prompt.
        prefill = is_first_iteration or empty
        if prefill and new is not None and bool((new == self.config.image_token_id).any()):
            check_images_given(self.config, new, pixel_values)
            inputs["pixel_values"], inputs["crops_per_image"] = pixel_values, crops_per_image
            inputs["attention_mask"] = kwargs.get("attention_mask")  # (B, L); a static cache's mask has four dimensions
        return inputs

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        """As Hugging Face's. Raises UserError for modes in which images pass again behind other text than the prompt:
        a method that looks at the prompt would then choose anew, by tokens that were drafted or decoded; and for a
        prompt in chunks and for early exit, which stock `generate` does on plain LLMs alone."""
        if generation_config.prefill_chunk_size is not None:
            raise UserError("prefill_chunk_size: a prompt with images enters in one piece; leave it out")
        if generation_config.assistant_early_exit is not None:
            raise UserError("assistant_early_exit: the first layers alone cannot draft here; name an assistant_model")
        if self.method.prompt_aware:
            again = f"lets {self.method.name} choose vision tokens by text that is not the prompt's"
            if generation_mode == GenerationMode.ASSISTED_GENERATION:
                raise UserError(f"generate: assisted decoding {again}; leave out assistant_model and prompt_lookup")
            if generation_config.use_cache is False:
                raise UserError(f"use_cache: False {again}; leave it out")
        super()._validate_generation_mode(generation_mode, generation_config, *args)

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """As Hugging Face's. Raises UserError for a conversation that goes on: stock assisted decoding then reads what
        the cache holds once more."""
        cache = kwargs["model_kwargs"].get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise UserError("generate: assisted decoding cannot go on from past_key_values; leave one of them out")
        return super()._get_candidate_generator(*args, **kwargs)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """As Hugging Face's; and a placeholder is never written: it would stand for an image that is not there."""
        processors = super()._get_logits_processor(*args, **kwargs)
        pad = self.config.text_config.pad_token_id
        if self.config.image_token_id < self.config.text_config.vocab_size:
            # First: what comes behind may leave one token alone.
            processors.insert(0, SuppressTokensLogitsProcessor([self.config.image_token_id]))
        return TextProcessors(processors, self.config.image_token_id, 0 if pad is None else pad)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeat each sample `expand_size` times (beams, several return sequences) with all its images.

        Raises UserError for a cache that was not repeated as well.
        """
        cache = kwargs.get("past_key_values")
        if expand_size > 1 and cache is not None and cache.get_seq_length() > 0:
            held = cache.layers[0].keys.shape[0]
            given = input_ids if input_ids is not None else kwargs["inputs_embeds"]
            if held != len(given) * expand_size:
                raise UserError(
                    f"past_key_values: hold {held} samples, where {len(given)} × {expand_size} are followed; "
                    f"call its batch_repeat_interleave({expand_size}), or leave out num_beams and num_return_sequences"
                )
        if pixel_values is not None and expand_size > 1:
            layout = self.read_prompt(input_ids, kwargs.get("attention_mask"), crops_per_image).layout
            crops = repeat_by_sample(layout.sample_of_crop, expand_size)
            first_crop = layout.crop_in_image == 0
            images = repeat_by_sample(layout.sample_of_crop[first_crop], expand_size)
            pixel_values, crops_per_image = pixel_values[crops], torch.as_tensor(crops_per_image)[images]
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, {**kwargs, "pixel_values": pixel_values, "crops_per_image": crops_per_image}


def check_last_column(attention_mask: torch.Tensor | None) -> None:
    """Raise UserError where a mask (B, L) has padding on the right: generation goes on behind the last column."""
    if attention_mask is not None and not bool(attention_mask[..., -1].all()):
        raise UserError("attention_mask: padding on the right; pad on the left, as ProxyVProcessor does")


def columns_behind(kwargs: Mapping[str, Any], given: torch.Tensor, drafted: bool) -> int | None:
    """How many columns of a prompt are new behind the cache that it continues, if it has one: the cache may hold fewer
    rows than tokens went into it.

    Args:
        kwargs: the model's: `past_key_values`, `attention_mask` (B, all columns; None where nothing is padding) and
            `next_sequence_length`, which stock `generate` gives where it was given all columns.
        given: input_ids or inputs_embeds (B, L, …), of all columns or the new ones.
        drafted: whether drafts stand among them, in assisted decoding.

    Raises UserError where there are none, or more than are given, and for drafts behind a cache that counts otherwise.
    """
    cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    held = 0 if cache is None else int(cache.get_seq_length())
    if held == 0:
        return None
    if mask is None and kwargs.get("next_sequence_length") is None:
        return given.shape[1]
    kept = cached_rows_layer(cache, 0)
    seen = held if kept is None else kept.seen
    new = (given if mask is None else mask).shape[1] - seen
    if drafted and new != kwargs.get("next_sequence_length"):
        raise UserError("assistant_model: drops vision tokens, so that its drafts cannot be taken back; use another")
    if not 0 < new <= given.shape[1]:
        raise UserError(
            f"past_key_values: {seen} tokens went into the cache; give input_ids of the whole conversation, "
            "or those of the new turn with an attention_mask over all"
        )
    return new


class TextProcessors(LogitsProcessorList):
    """Logits processors that see padding where image placeholders stand: their id may lie beyond the vocabulary,
    where penalties and n-gram rules would look it up."""

    def __init__(self, processors: LogitsProcessorList, image_token_id: int, pad_token_id: int):
        super().__init__(processors)
        self.image_token_id, self.pad_token_id = image_token_id, pad_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """input_ids (B, L) int64, scores (B, V) → scores (B, V)."""
        text = input_ids.masked_fill(input_ids == self.image_token_id, self.pad_token_id)
        processed: torch.Tensor = super().__call__(text, scores, **kwargs)
        return processed


def repeat_by_sample(sample_of: torch.Tensor, times: int) -> torch.Tensor:
    """Indices that repeat each sample's items as a block.

    Args:
        sample_of: (n,) int64, the sample of each item, as `Layout.sample_of_crop`.

    Returns (times · n,) int64: samples [0, 0, 1] twice → [0, 1, 0, 1, 2, 2].
    """
    blocks = [(sample_of == sample).nonzero().flatten().repeat(times) for sample in sample_of.unique()]
    return torch.cat(blocks)
