"""A model and a processor with Hugging Face's interface and no network: known questions get known answers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

PAD, END = 0, 1


class FakeProcessor:
    """One token a character, padded on the left."""

    padding_side = "left"

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt and not tokenize
        (message,) = messages
        *images, text = message["content"]
        assert message["role"] == "user" and images and all(image == {"type": "image"} for image in images)
        return f"USER: {'<image>' * len(images)}\n{text['text']} ASSISTANT:"

    def __call__(self, text: list[str], images: list[list[Any]], padding: bool, return_tensors: str) -> dict:
        assert padding and return_tensors == "pt" and len(text) == len(images)
        assert all(image.mode == "RGB" for of_text in images for image in of_text)
        marks = [prompt.split("\n")[0].count("<image>") for prompt in text]
        assert marks == [len(of_text) for of_text in images]
        width = max(map(len, text))
        rows = [[ord(c) for c in one] for one in text]
        blanks = [[PAD] * (width - len(row)) for row in rows]
        left = self.padding_side == "left"
        ids = torch.tensor([b + r if left else r + b for b, r in zip(blanks, rows, strict=True)])
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": torch.zeros(len(text), 3)}

    def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join(chr(i) for i in row if i not in (PAD, END)) for row in rows.tolist()]


class FakeModel:
    """Answers `answer(question)`; counts its calls and, where told, dies at one of them."""

    def __init__(self, answer: Callable[[str], str], path: str = "fake/model", die_at_call: int | None = None):
        self.answer, self.die_at_call, self.calls = answer, die_at_call, 0
        self.config = SimpleNamespace(_name_or_path=path, _attn_implementation="sdpa")
        self.generation_config = SimpleNamespace(eos_token_id=[END])
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        do_sample: bool,
        num_beams: int,
        max_new_tokens: int,
    ) -> torch.Tensor:
        assert do_sample is False and num_beams == 1
        self.calls += 1
        if self.calls == self.die_at_call:
            raise KeyboardInterrupt
        new = [self._answer_ids(row)[:max_new_tokens] for row in input_ids.tolist()]
        width = max(map(len, new))
        padded = torch.tensor([ids + [PAD] * (width - len(ids)) for ids in new])
        return torch.cat([input_ids, padded], dim=1)

    def _answer_ids(self, row: list[int]) -> list[int]:
        prompt = "".join(chr(i) for i in row if i != PAD)
        question = prompt.split("<image>\n", 1)[1].removesuffix(" ASSISTANT:")
        return [ord(c) for c in self.answer(question)] + [END]
