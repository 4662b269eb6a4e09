"""The tokens that a chat needs of a tokenizer: padding, and what its template marks turns with."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from proxyv.errors import UserError, suggest
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.templates import chat_template, check_rendering, template_names

_CONTROL = re.compile(r"<\|[^<>|\s]+\|>|</?s>|<answer>|<bos>|<(?:start|end)_of_turn>")
_WORDS = re.compile(r"\{#-? words: (.*?) -?#\}")  # what a template says looks like control tokens and is text
_CHAT = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
PLAIN = "vicuna_v1"  # its turns are marked by words


def set_padding(tokenizer: PreTrainedTokenizerBase, token: str) -> None:
    """Pad with a token, in place. Raises UserError where it is none of the tokenizer's own."""
    if token not in tokenizer.get_vocab():
        special = tokenizer.all_special_tokens
        raise UserError(f"llm.pad_token: '{token}' is no token of the tokenizer{suggest(token, special)}")
    tokenizer.pad_token = token


def fitting_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The shipped chat template whose control tokens the tokenizer has; the one without any where it has none of them.
    One whose turns are marked by words must be named.

    Raises UserError where several fit.
    """
    texts = {name: chat_template(name) for name in template_names()}
    marked = {name: text for name, text in texts.items() if name != PLAIN and not _WORDS.search(text)}
    fitting = [name for name, text in marked.items() if not missing_control_tokens(text, tokenizer)]
    if len(fitting) > 1:
        raise UserError(f"llm.chat_template: null, and the tokenizer fits {', '.join(fitting)}; name one of them")
    return fitting[0] if fitting else PLAIN


def check_control_tokens(processor: ProxyVProcessor) -> None:
    """Raise UserError where the tokenizer splits what the chat template marks turns with, as words would be: the model
    has never seen such marks."""
    missing = missing_control_tokens(processor.chat_template or "", processor.tokenizer)
    if missing:
        raise UserError(
            f"llm.chat_template: the tokenizer has no token {', '.join(missing)}; name the template of its family"
        )


def missing_control_tokens(template: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The control tokens of a conversation in this template that are no single tokens of the tokenizer, in order."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    named = [name for name in ("bos_token", "eos_token") if re.search(rf"\b{name}\b", template)]
    if missing := [name for name in named if name not in special]:
        return missing
    marks = dict.fromkeys(_CONTROL.findall(check_rendering(template, _CHAT, **special, add_generation_prompt=True)))
    vocabulary, words = tokenizer.get_vocab(), " ".join(_WORDS.findall(template)).split()
    tokens = [mark for mark in marks if mark not in words]
    return [mark for mark in tokens if mark not in vocabulary or tokenizer.tokenize(mark) != [mark]]
