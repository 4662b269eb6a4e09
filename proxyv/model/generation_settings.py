"""The generation settings beside a model's weights, checked: transformers takes wrong ones and fails in `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxyv.errors import UserError
from proxyv.files import read_json
from proxyv.model.sources import SAVE_AGAIN
from proxyv.model.sub_configs import MOST, check_token_ids

FILE = "generation_config.json"
_FLAGS = (
    *("do_sample", "use_cache", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "renormalize_logits", "remove_invalid_values"),
)
_COUNTS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences", "top_k")
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
)


def check_generation(folder: Path) -> None:
    """Raise UserError for a damaged generation_config.json, or settings of the wrong type; a folder may lack it."""
    file = folder / FILE
    for name, value in (read_json(file, SAVE_AGAIN) if file.is_file() else {}).items():
        if name.endswith("_token_id"):
            check_token_ids(value, f"{file}: {name}")
        elif value is not None and not _fits(name, value):
            raise UserError(f"{file}: {name}: {value!r:.100} cannot be; fix the field, or delete it")


def _fits(name: str, value: Any) -> bool:
    if name in _FLAGS:
        return isinstance(value, bool)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _COUNTS:
        return number and value == int(value) and 0 <= value < MOST
    return name not in _NUMBERS or (number and 0 <= value < MOST)
