"""Token ids by which a prompt shows whose turn it is: read off the chat template once, kept in the configuration.

A prompt at inference has no labels; what the template writes around the turns is all that tells a question from the
answers behind it, and it stands in training conversations as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os.path import commonprefix
from typing import NamedTuple, TypedDict

import torch

from proxyv.constants import IMAGE_TOKEN
from proxyv.errors import UserError
from proxyv.model.plain_text import tokenize
from proxyv.model.processing import ProxyVProcessor

# Stands for what is said: no template writes it, and no tokenizer joins its last digit to what follows.
_SAID = "7041"
# Ends of what a user says, behind which a tokenizer may cut the same text into other tokens.
_ENDS = ("", " ", "\n", IMAGE_TOKEN)
_BLANKS = (" ", "\n", "\n\n", " \n", "\n ", "  ", "\t")


class TurnTokens(TypedDict):
    """Token ids that mark the turns of a prompt."""

    begin: list[int]  # what the tokenizer puts before a text of its own (its BOS, or nothing)
    user: list[list[int]]  # what the template writes before a user's words
    answer: list[list[int]]  # what it writes between a user's words and the answer, in each form that was found
    blank: list[int]  # spaces and line breaks


def turn_tokens(processor: ProxyVProcessor) -> TurnTokens:
    """Those of a processor's tokenizer and chat template, without blanks at the ends.

    Raises UserError where the template leaves out what the user says.
    """
    tokenizer = processor.tokenizer
    plain, _ = tokenize(tokenizer, _SAID)
    begin = tokenizer(_SAID)["input_ids"]
    begin = begin[: len(begin) - len(plain)]
    between = [tokenize(tokenizer, IMAGE_TOKEN + blank + IMAGE_TOKEN)[0] for blank in _BLANKS]
    blanks = {token for ids in between for token in ids} - {processor.image_token_id}

    question = {"role": "user", "content": _SAID}
    dialogue = [question, {"role": "assistant", "content": _SAID}, question]
    head, _, later, _ = _written(processor, dialogue, False)
    alike = len(commonprefix([head.text[::-1], later.text[::-1]]))  # characters before a user's words in every turn
    users = [piece.last(alike) for piece in (head, later)] if alike else [later.ids]
    answers = []
    for end in _ENDS:
        asked = [{"role": "user", "content": _SAID + end}]
        prompt, history = _written(processor, asked, True)[1], _written(processor, [*asked, dialogue[1]], False)[1]
        answers.append(commonprefix([prompt.ids, history.ids]))
    ends = {*blanks, processor.image_token_id}
    return {
        "begin": begin,
        "user": _distinct(_stripped(mark, ends) for mark in users),
        "answer": _distinct(_stripped(mark, ends) for mark in answers),
        "blank": sorted(blanks),
    }


def occurrences(ids: torch.Tensor, mark: list[int]) -> torch.Tensor:
    """Where a mark begins in ids (B, L): (B, L) bool."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    if 0 < len(mark) <= ids.shape[1]:
        places = ids.unfold(1, len(mark), 1)  # (B, L − length + 1, length)
        found[:, : places.shape[1]] = (places == torch.tensor(mark, device=ids.device)).all(-1)
    return found


class _Piece(NamedTuple):
    """What a template writes in one place."""

    text: str
    ids: list[int]
    ends: list[int]  # of each token, in characters

    def last(self, characters: int) -> list[int]:
        """The tokens that reach into the last characters."""
        start = len(self.text) - characters
        return [token for token, end in zip(self.ids, self.ends, strict=True) if end > start]


def _written(processor: ProxyVProcessor, messages: list[dict[str, str]], prompt: bool) -> list[_Piece]:
    """What stands before, between and behind what is said; with `prompt`, up to where an answer would begin."""
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    said = [found.span() for found in re.finditer(_SAID, text)]
    if len(said) != len(messages):
        raise UserError("llm.chat_template: leaves out what is said, or writes it twice; write each message once")
    bounds = zip([0, *(stop for _, stop in said)], [*(start for start, _ in said), len(text)], strict=True)
    ids, offsets = tokenize(processor.tokenizer, text)
    if not offsets:
        raise UserError("llm.tokenizer: does not say which characters a token stands for; use a fast one")
    tokens = list(zip(ids, offsets, strict=True))
    pieces = []
    for start, stop in bounds:
        # Whole tokens: one that reaches into what is said carries some of it.
        inside = [(token, end - start) for token, (begin, end) in tokens if start <= begin and end <= stop]
        pieces.append(_Piece(text[start:stop], [token for token, _ in inside], [end for _, end in inside]))
    return pieces


def _stripped(ids: Sequence[int], blanks: set[int]) -> list[int]:
    """Without the blanks at both ends."""
    words = [place for place, token in enumerate(ids) if token not in blanks]
    return list(ids[words[0] : words[-1] + 1]) if words else []


def _distinct(marks: Iterable[list[int]]) -> list[list[int]]:
    """Those that are not empty, each once."""
    return [list(mark) for mark in dict.fromkeys(tuple(mark) for mark in marks if mark)]
