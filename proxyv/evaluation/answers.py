"""Questions and images in, answers out: greedy generation through the Hugging Face interface alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from proxyv.constants import IMAGE_TOKEN
from proxyv.errors import UserError
from proxyv.model.processing import ProxyVProcessor


@dataclass(frozen=True)
class Answer:
    """A generated text.

    new_tokens: tokens up to and including the end token.
    finished: false where `max_new_tokens` came before an end token.
    """

    text: str
    new_tokens: int
    finished: bool


def chat_prompt(processor: Any, text: str, images: int = 1) -> str:
    """One user turn, the images before the text, in the processor's chat template, ready for the answer.

    With our own processor, what looks like a control token in the text, `<image>` too, stays text.
    """
    if hasattr(processor, "plain_text"):
        text = processor.plain_text(text)
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def answer(
    model: Any, processor: ProxyVProcessor, question: str, images: Sequence[Image.Image], max_new_tokens: int
) -> str:
    """The greedy answer to one question about some images, which come first where it has no `<image>` mark."""
    if IMAGE_TOKEN not in question:
        question = f"{IMAGE_TOKEN}\n" * len(images) + question
    messages = [{"role": "user", "content": processor.plain_text(question, marks=True)}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = _to_model(dict(processor(text=[text], images=[list(images)]).items()), model)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    new = output[:, inputs["input_ids"].shape[1] :]
    return str(processor.batch_decode(new, skip_special_tokens=True)[0].strip())


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Evaluation mode for a torch module, its former mode restored afterwards; nothing for other objects."""
    was_training = isinstance(model, torch.nn.Module) and model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


@torch.no_grad()
def generate_answers(
    model: Any, processor: Any, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]], max_new_tokens: int
) -> list[Answer]:
    """Answer a batch greedily. Blanks around the answers are cut off.

    Args:
        prompts: texts in the chat template, ready for the answer.
        images: those of each prompt, one for each of its image marks; none for a text alone.
        max_new_tokens: tokens at most, the end token included.

    Raises UserError where the processor pads on the right: the answers would continue the padding.
    """
    nested = [list(of_prompt) for of_prompt in images]
    # Hugging Face's processors take no lists without images.
    pictures = nested if any(nested) else None
    inputs = processor(text=list(prompts), images=pictures, padding=True, return_tensors="pt")
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask[:, -1].all()):
        raise UserError("processor: pads on the right; set tokenizer.padding_side to 'left' to generate in batches")
    width = inputs["input_ids"].shape[1]
    placed = _to_model(dict(inputs.items()), model)
    output = model.generate(**placed, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
    new = output[:, width:].cpu()
    texts = processor.batch_decode(new, skip_special_tokens=True)
    ends = _end_tokens(model)
    return [_answer(text, row, ends, max_new_tokens) for text, row in zip(texts, new.tolist(), strict=True)]


def _answer(text: str, tokens: list[int], ends: set[int], max_new_tokens: int) -> Answer:
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    count = len(tokens) if end is None else end + 1
    return Answer(text.strip(), count, finished=end is not None or count < max_new_tokens)


def _end_tokens(model: Any) -> set[int]:
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ids is None:
        return set()
    return {ids} if isinstance(ids, int) else set(ids)


def _to_model(value: Any, model: Any) -> Any:
    """Tensors on the model's device, those of floats also in its dtype; inside lists and mappings too."""
    if isinstance(value, torch.Tensor):
        dtype = getattr(model, "dtype", None) if value.is_floating_point() else None
        return value.to(device=getattr(model, "device", None), dtype=dtype)
    if isinstance(value, Mapping):
        return {key: _to_model(one, model) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_model(one, model) for one in value]
    return value
