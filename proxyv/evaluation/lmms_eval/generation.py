"""What a task of lmms-eval may ask of the generation: greedy answers of a length, cut at stop texts, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxyv.errors import UserError

LONGEST = 1024  # new tokens where a task names no number, as in lmms-eval's adapters of LLaVA
# lmms-eval puts its separator of examples where a task names no stop text. It would cut answers at their first empty
# line, which such a task does not mean; lmms-eval's adapters of LLaVA, Qwen and Gemma leave it out as well.
UNNAMED = ["\n\n"]
# What changes nothing in greedy answers, and `image_aspect_ratio`, which is for models whose own preprocessing is not
# saved with them: those of LLaVA with a setting of their own ignore it too.
WITHOUT_EFFECT = ("do_sample", "temperature", "top_k", "top_p", "seed", "image_aspect_ratio")
# What may stand there as long as it asks for nothing.
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "length_penalty": 1.0}


@dataclass(frozen=True, order=True)
class Generation:
    """How one answer is made.

    max_new_tokens: tokens at most.
    stops: the answer ends before the first of these.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()

    def cut(self, text: str) -> str:
        """The answer up to its first stop text, without blanks around."""
        return text[: min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=len(text))].strip()


def read_generation(task: str, asked: Mapping[str, Any] | None) -> Generation:
    """A task's `generation_kwargs`. Raises UserError for what would not be honoured: sampling, beams, penalties, and
    what is unknown here."""
    rest = {name: value for name, value in (asked or {}).items() if value is not None}
    where = f"task {task}: generation_kwargs"
    tokens, stops = rest.pop("max_new_tokens", LONGEST), rest.pop("until", [])
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"{where}: max_new_tokens {tokens!r} must be a whole number from 1")
    stops = [stops] if isinstance(stops, str) else [] if stops == UNNAMED else stops
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise UserError(f"{where}: until {stops!r:.100} must be a text or a list of them")
    temperature = rest.get("temperature", 0)
    if rest.get("do_sample", temperature != 0) and temperature != 0:
        raise UserError(
            f"{where}: asks for sampling, and answers are greedy; choose another task, or override do_sample=False"
        )
    for name, value in rest.items():
        if name in NEUTRAL and value != NEUTRAL[name]:
            raise UserError(f"{where}: {name} {value!r:.100} is not supported, answers are greedy; choose another task")
        if name not in NEUTRAL and name not in WITHOUT_EFFECT:
            raise UserError(f"{where}: '{name}' is not supported; choose another task, or leave it out")
    return Generation(tokens, tuple(stop for stop in stops if stop))
