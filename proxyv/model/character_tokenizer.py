"""The built-in tokenizer of tiny models: one token per lowercase word, one per any other character."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from proxyv.constants import IMAGE_TOKEN


def make_character_tokenizer(characters: Iterable[str], words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the given characters, the given lowercase words, and blank and newline."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<answer>", IMAGE_TOKEN]
    pieces = [" ", "\n", *sorted({*characters} - {" ", "\n"}), *sorted({*words})]
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate([*special, *pieces])}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<answer>", IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
    )
