"""What generation needs to know of images: when they enter, how they multiply, and who must not see placeholders.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessorList
from transformers.generation import GenerationMode

from proxyv.errors import UserError
from proxyv.model.cache import cached_rows_layer
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
        """
        kept = cached_rows_layer(kwargs.get("past_key_values"), 0)
        if kept is not None and is_first_iteration and kwargs.get("next_sequence_length") is not None:
            # A conversation that goes on: the cache holds fewer rows than tokens went into it.
            kwargs["next_sequence_length"] = input_ids.shape[1] - kept.seen
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        new = inputs["input_ids"]
        prefill = is_first_iteration or not kwargs.get("use_cache", True)
        if prefill and new is not None and bool((new == self.config.image_token_id).any()):
            inputs["pixel_values"], inputs["crops_per_image"] = pixel_values, crops_per_image
            inputs["attention_mask"] = kwargs.get("attention_mask")  # (B, L); a static cache's mask has four dimensions
        return inputs

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        """As Hugging Face's. Raises UserError for modes in which images pass again behind other text than the prompt:
        a method that looks at the prompt would then choose anew, by tokens that were drafted or decoded."""
        if self.method.prompt_aware:
            again = f"lets {self.method.name} choose vision tokens by text that is not the prompt's"
            if generation_mode == GenerationMode.ASSISTED_GENERATION:
                raise UserError(f"generate: assisted decoding {again}; leave out assistant_model and prompt_lookup")
            if generation_config.use_cache is False:
                raise UserError(f"use_cache: False {again}; leave it out")
        super()._validate_generation_mode(generation_mode, generation_config, *args)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*args, **kwargs)
        pad = self.config.text_config.pad_token_id
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
        """Repeat each sample `expand_size` times (beams, several return sequences) with all its images."""
        if pixel_values is not None and expand_size > 1:
            layout = self.read_prompt(input_ids, kwargs.get("attention_mask"), crops_per_image).layout
            crops = repeat_by_sample(layout.sample_of_crop, expand_size)
            first_crop = layout.crop_in_image == 0
            images = repeat_by_sample(layout.sample_of_crop[first_crop], expand_size)
            pixel_values, crops_per_image = pixel_values[crops], torch.as_tensor(crops_per_image)[images]
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, {**kwargs, "pixel_values": pixel_values, "crops_per_image": crops_per_image}


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
