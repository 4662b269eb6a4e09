"""Training pages as LLaVA records and as glyph labels."""

from typing import Any

import numpy as np

from proxyv.constants import IMAGE_TOKEN
from proxyv.pages.page import Page, Turn
from proxyv.pages.vocabulary import TRANSCRIBE

PageRecord = dict[str, Any]
IMAGE_PREFIX = f"{IMAGE_TOKEN}\n"


def image_record(name: str, image: str, page: Page, turns: list[Turn]) -> PageRecord:
    """A conversation about the image at `image`, a path relative to the image folder."""
    conversations = _conversations(turns, first_prefix=IMAGE_PREFIX)
    return {"id": name, "image": image, "data_source": page.kind, "conversations": conversations}


def caption_record(name: str, image: str, page: Page) -> PageRecord:
    """The transcript as the image's caption."""
    return image_record(name, image, page, [(TRANSCRIBE, page.transcript)])


def text_record(name: str, page: Page, turns: list[Turn], *, gaps: bool) -> PageRecord:
    """The same look-ups without an image; the page's text stands before the first question.

    gaps: the whole grid, blanks included, so that characters and gaps come in the order of the image's patches;
    without, the transcript, from which looking up and copying are learned much sooner.
    """
    text = "\n".join(page.grid) if gaps else page.transcript
    conversations = _conversations(turns, first_prefix=text + "\n")
    return {"id": name, "data_source": page.kind, "conversations": conversations}


def glyph_record(name: str, image: str, page: Page) -> PageRecord:
    """Which character stands in each cell."""
    return {"id": name, "image": image, "grid": page.grid}


def pick_turns(page: Page, count: int, rng: np.random.Generator, *, transcribe: bool = False) -> list[Turn]:
    """Up to `count` of the page's turns in random order; `transcribe` adds transcription to the choice."""
    turns = list(page.turns)
    transcription = (TRANSCRIBE, page.transcript)
    if transcribe and transcription not in turns:
        turns.append(transcription)
    return [turns[place] for place in rng.permutation(len(turns))[:count]]


def _conversations(turns: list[Turn], *, first_prefix: str) -> list[dict[str, str]]:
    messages = []
    for place, (question, answer) in enumerate(turns):
        prefix = first_prefix if place == 0 else ""
        messages.append({"from": "human", "value": prefix + question})
        messages.append({"from": "gpt", "value": answer})
    return messages
