"""The processor: images and text → model inputs. It counts the placeholders that the model checks.

Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import BatchFeature

from proxyv.constants import IMAGE_TOKEN
from proxyv.errors import UserError, reading
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.plain_text import protect, tokenize
from proxyv.model.sources import SAVE_AGAIN, load_tokenizer
from proxyv.model.templates import check_rendering

# Where a folder keeps the image processor's settings, now and as older versions saved them.
_SETTINGS = ("processor_config.json", "preprocessor_config.json")
# Of the arguments of `apply_chat_template`, those that Hugging Face hands to every template.
_SEEN_BY_TEMPLATES = ("add_generation_prompt", "tools", "documents")


class ProxyVProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template in one object, saved and loaded with the model.

    In text, one `<image>` stands for one image; in `input_ids` it takes crops · (P + 1) placeholder ids. A tokenizer
    that lacks this token gets it, in place.

    Args:
        chat_template: Jinja text; None: the tokenizer's own.

    Raises UserError where the tokenizer has no padding token.
    """

    def __init__(
        self,
        image_processor: ProxyVImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        **kwargs: Any,
    ):
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        if tokenizer.pad_token_id is None:
            raise UserError("llm.pad_token: the tokenizer has no padding token; name one in the recipe")
        # Generation continues at the right end of every row, so padding goes to the left, in training as well.
        tokenizer.padding_side = "left"
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> ProxyVProcessor:
        """Load a saved processor: folder or hub id; `kwargs` as for Hugging Face's tokenizers.

        Raises UserError for one that is not there, damaged, or brings code of its own.
        """
        source = pretrained_model_name_or_path
        folder = Path(source)
        if folder.is_dir() and not any((folder / name).is_file() for name in _SETTINGS):
            raise UserError(f"{folder}: has no processor ({_SETTINGS[0]}); save it beside the weights")
        tokenizer = load_tokenizer(source, "processor", **kwargs)
        # Not through AutoImageProcessor, for which older transformers 5 want torchvision; nothing here needs it.
        with reading(source, SAVE_AGAIN):
            return cls(ProxyVImageProcessor.from_pretrained(source, **kwargs), tokenizer)

    def try_chat(self) -> None:
        """Raise UserError where the chat template is missing or broken, or loses a question or its image."""
        question = f"{IMAGE_TOKEN}\nWhat is it?"
        text = self.check_chat([{"role": "user", "content": question}], add_generation_prompt=True)
        if text.count(IMAGE_TOKEN) != 1 or "What is it?" not in text:
            raise UserError("chat template: loses the question or its image; mend it, or name another")

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool = True,
        return_tensors: str | None = "pt",
        image_mode: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for a batch.

        Args:
            images: a PIL image, a list of them, or a list of lists (the images of each text), in reading order.
            text: one prompt or several; from `apply_chat_template`, so special tokens are not added again.
            padding: pad to the longest, on the left.
            return_tensors: "pt", or None for lists of ids.
            image_mode: overrides the image processor's saved mode.

        Returns `input_ids` and `attention_mask`, (B, L) int64, and with images `pixel_values`, (C, 3, S, S) float32,
        and `crops_per_image`, (I,) int64; without `return_tensors` lists in place of the int64 tensors.

        Raises UserError where a text has more or fewer `<image>` marks than images.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        encoded = [tokenize(self.tokenizer, t)[0] for t in texts]
        flat = self._matched_images(images, encoded)
        vision = self.image_processor(flat, image_mode=image_mode) if flat else {}
        counts = iter(vision.get("crops_per_image", []))
        rows = [self.expand(ids, counts) for ids in encoded]
        padded = self.tokenizer.pad({"input_ids": rows}, padding=padding, return_tensors=return_tensors)
        if return_tensors == "pt" and flat:
            vision["crops_per_image"] = torch.tensor(vision["crops_per_image"])
        return BatchFeature({**padded, **vision})

    def plain_text(self, text: str, marks: bool = False) -> str:
        """A person's text, ready for the chat template: what looks like a control token in it stays text.

        marks: `<image>` still stands for an image.
        """
        return protect(self.tokenizer, text, keep=[IMAGE_TOKEN] if marks else [])

    def expand(self, ids: Sequence[int], crops: Iterator[int]) -> list[int]:
        """Each `<image>` id → crops · (P + 1) of them; `crops` gives the number of crops of one image after another."""
        rows = self.image_processor.tokens_per_crop + 1
        return [one for i in ids for one in ([i] * (next(crops) * rows) if i == self.image_token_id else [i])]

    def count_rows(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        """Length of a prompt in `input_ids`, for images of these (width, height), which need not be opened."""
        ids = tokenize(self.tokenizer, text)[0]
        return len(self.expand(ids, map(self.image_processor.count_crops, sizes)))

    def _matched_images(self, images: Any, encoded: Sequence[Sequence[int]]) -> list[Image.Image]:
        """All images in one list, checked against the marks: per text where they are nested, else in all. Raises
        UserError where they differ."""
        marks = [list(ids).count(self.image_token_id) for ids in encoded]
        if images is None:
            images = []
        elif isinstance(images, Image.Image):
            images = [images]
        nested = any(isinstance(of_text, (list, tuple)) for of_text in images)
        found = [len(of_text or []) for of_text in images] if nested else [len(images)]
        wanted = marks if nested else [sum(marks)]
        if len(found) != len(wanted):
            raise UserError(f"images: {len(found)} lists of images for {len(wanted)} texts; give one per text")
        for index, (have, want) in enumerate(zip(found, wanted, strict=True)):
            if have != want:
                where = f"text {index}" if nested else "the text"
                raise UserError(f"{where} has {want} <image> mark(s) but {have} image(s); make them equal")
        return [image for of_text in images for image in (of_text or [])] if nested else list(images)

    def check_chat(self, messages: Sequence[Any], chat_template: str | None = None, **variables: Any) -> str:
        """A conversation as text, rendered within a budget. Raises UserError as `check_rendering` does."""
        special = {name: value for name, value in self.tokenizer.special_tokens_map.items() if isinstance(value, str)}
        return check_rendering(chat_template or self.chat_template, messages, **{**special, **variables})

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """As Hugging Face's. Raises UserError for a template that is wrong or does not end (see templates.py)."""
        variables = {name: value for name, value in kwargs.items() if name in _SEEN_BY_TEMPLATES}
        several = bool(conversation) and isinstance(conversation[0], (list, tuple))
        for messages in conversation if several else [conversation]:
            self.check_chat(messages, chat_template, **variables)
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def check_fit(config: ProxyVConfig, processor: ProxyVProcessor) -> None:
    """Raise UserError where a processor is not that of the model: other crops, another placeholder, a tokenizer with
    ids that the LLM has no embedding for (`<image>` needs none), a chat template that does not work."""
    processor.try_chat()
    images, vision = processor.image_processor, config.vision_config
    for name, of_processor, of_model in (
        ("crop_size", images.crop_size, vision.image_size),
        ("tokens_per_crop", images.tokens_per_crop, config.tokens_per_crop),
        ("image_token_id", processor.image_token_id, config.image_token_id),
    ):
        if of_processor != of_model:
            raise UserError(f"{name}: {of_processor} in the processor, {of_model} in the model; they must be the same")
    largest = max(token for token in processor.tokenizer.get_vocab().values() if token != processor.image_token_id)
    rows = config.text_config.vocab_size
    if largest >= rows:
        raise UserError(f"llm.config.vocab_size: {rows} is too small for the tokenizer; use at least {largest + 1}")
