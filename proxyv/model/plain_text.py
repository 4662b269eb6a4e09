"""Text that must stay text: what a person wrote never becomes a control token, whatever characters it holds.

A tokenizer turns `</s>` or `<image>` into a control token wherever it stands. `protect` marks such words in a
person's text before it goes into a chat template; `tokenize` then tells them from the template's own. Text without
such words, which is nearly all, is tokenised as ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from proxyv.errors import UserError

# Stands behind the first character of a control token's name that is meant as text. Unicode keeps this character for
# such inner use: no text has it.
BREAK = "\ufdd0"

Offset = tuple[int, int]


def protect(tokenizer: PreTrainedTokenizerBase, text: str, keep: Collection[str] = ()) -> str:
    """A person's text, ready for a chat template: names of control tokens are marked as text, save those to `keep`."""
    names = _control_tokens(tokenizer).names
    return names.sub(lambda found: found[0] if found[0] in keep else _marked(found[0]), text.replace(BREAK, ""))


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Offset]]:
    """Token ids of a rendered conversation and the characters [start, end) of `text` that each stands for.

    Where `protect` marked nothing in `text`, both are the tokenizer's own. A tokenizer written in Python has no
    offsets; then the list is empty.

    Raises UserError for marked text and a tokenizer written in Python, which cannot keep the two apart.
    """
    if BREAK not in text:
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
        return tokens["input_ids"], tokens.get("offset_mapping", [])
    if not tokenizer.is_fast:
        raise UserError(
            "llm.tokenizer: cannot tell a text with the name of a control token from the token; use a fast one"
        )
    return _control_tokens(tokenizer).tokenize(tokenizer, text)


def _marked(name: str) -> str:
    return f"{name[0]}{BREAK}{name[1:]}"


class _ControlTokens:
    """A tokenizer's control tokens, and the tokenizer once more with other names for them: BREAK and the old name."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.size = len(tokenizer)
        known = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        # Longest first: of names that begin alike the tokenizer, too, takes the longest.
        names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True) if name)
        self.names = re.compile(names or "(?!)")
        self.text_or_name = re.compile(f"(?P<text>.){BREAK}|(?P<name>{names or '(?!)'})", re.DOTALL)
        self.renamed: Tokenizer | None = None  # made when it is first needed
        self.ids: dict[int, int] = {}  # of control tokens, by their ids in `renamed`

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Offset]]:
        """As the function `tokenize`, for a text with marks."""
        if self.renamed is None:
            self.renamed, self.ids = self._rename(tokenizer)
        plain, places = self._rewrite(text)
        encoding = self.renamed.encode(plain, add_special_tokens=False)
        offsets = [
            (places[start], places[end - 1] + 1 if end > start else places[start]) for start, end in encoding.offsets
        ]
        return [self.ids.get(token, token) for token in encoding.ids], offsets

    @staticmethod
    def _rename(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokenizer, dict[int, int]]:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        control = [token for token in state["added_tokens"] if token["special"]]
        for token in control:
            token["content"] = BREAK + token["content"]
        renamed = Tokenizer.from_str(json.dumps(state))
        renamed.no_padding()
        renamed.no_truncation()
        new_ids = renamed.get_vocab(with_added_tokens=True)
        return renamed, {new_ids[token["content"]]: token["id"] for token in control}

    def _rewrite(self, text: str) -> tuple[str, list[int]]:
        """The text for `renamed`, and for each of its characters, and its end, the place in `text`."""
        pieces, places, done = [], [], 0
        for found in self.text_or_name.finditer(text):
            start = found.start()
            pieces += [text[done:start], found["text"] or BREAK + found["name"]]
            places += [*range(done, start), start, *(range(start, found.end()) if found["name"] else ())]
            done = found.end()
        return "".join([*pieces, text[done:]]), [*places, *range(done, len(text) + 1)]


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, _ControlTokens] = WeakKeyDictionary()


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> _ControlTokens:
    """The tokenizer's control tokens, looked up once, and again when it has got more."""
    known = _KNOWN.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _KNOWN[tokenizer] = _ControlTokens(tokenizer)
    return known
