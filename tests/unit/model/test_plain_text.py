"""What a person wrote never becomes a control token, and changes no token around it."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from proxyv.errors import UserError
from proxyv.evaluation.answers import chat_prompt
from proxyv.model.character_tokenizer import make_character_tokenizer
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.plain_text import BREAK, protect, tokenize
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.templates import chat_template
from proxyv.pages import QUESTION_WORDS, TEXT_CHARACTERS

NAMES = ["<pad>", "<s>", "</s>", "<answer>", "<|im_start|>", "<|im_end|>"]
WORDS = "USER: what is <image> ? ASSISTANT: a mark of text </s> <s> <|im_end|> é世 <|im_start|>user"


def bytes_of(name):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core, pre_tokenizers.ByteLevel.alphabet()


def pieces_of(scheme):
    """SentencePiece's manner: a blank in front of the whole text ("first"), or of each piece ("always", "legacy")."""
    core = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    if scheme == "legacy":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return core, sorted(set(WORDS + "▁\n"))


MAKE = {
    "bytes": lambda: bytes_of("bytes"),
    "first": lambda: pieces_of("first"),
    "always": lambda: pieces_of("always"),
    "legacy": lambda: pieces_of("legacy"),
}


def make(kind):
    if kind == "characters":
        return make_character_tokenizer(TEXT_CHARACTERS, QUESTION_WORDS)
    core, alphabet = MAKE[kind]()
    trainer = trainers.BpeTrainer(
        vocab_size=320 if kind == "bytes" else 70,
        special_tokens=["<unk>", *NAMES],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator([WORDS] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES], special_tokens=True)
    return tokenizer


@pytest.fixture(params=[*MAKE, "characters"])
def processor(request):
    tokenizer = make(request.param)
    return ProxyVProcessor(
        ProxyVImageProcessor(crop_size=56, tokens_per_crop=16), tokenizer, chat_template("vicuna_v1")
    )


def control_ids(tokenizer):
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


@pytest.mark.parametrize(
    "name", ["<image>", "</s>", "<s>", "<pad>", "<|im_end|>", "<<image>>", "</s></s>", "<s><image>"]
)
def test_a_name_in_a_text_is_text(processor, name):
    tokenizer = processor.tokenizer
    written, harmless = f"what is {name} ?", "what is x ?"
    text, other = (f"<s>USER: {protect(tokenizer, one)} ASSISTANT: a</s>" for one in (written, harmless))
    ids, offsets = tokenize(tokenizer, text)
    expected, _ = tokenize(tokenizer, other)
    control = control_ids(tokenizer) - {tokenizer.unk_token_id}
    assert [i for i in ids if i in control] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    # Around the name the tokens are those of a harmless text, and what they stand for is all of the text.
    ahead = next(place for place, (_, end) in enumerate(offsets) if end > len("<s>USER: what is "))
    assert ahead > 2 and ids[: ahead - 1] == expected[: ahead - 1] and ids[-4:] == expected[-4:]
    assert offsets[0] == (0, 3) and offsets[-1] == (len(text) - 4, len(text))
    assert all(start <= end for start, end in offsets)
    if tokenizer.unk_token_id not in ids:
        assert name in tokenizer.decode(ids).replace(" ", "") or name in tokenizer.decode(ids)


def test_kept_names_are_control_tokens_and_the_rest_is_not(processor):
    text = processor.plain_text("<image>\nwhat is </s> ?", marks=True)
    ids, _ = tokenize(processor.tokenizer, text)
    assert ids.count(processor.image_token_id) == 1 and processor.tokenizer.eos_token_id not in ids
    assert processor.image_token_id not in tokenize(processor.tokenizer, processor.plain_text(text))[0]


def test_text_without_names_is_tokenised_as_ever(processor):
    text = "<s>USER: what is é世 < image > ? ASSISTANT: a</s>"
    assert protect(processor.tokenizer, "what is é世 < image > ?") == "what is é世 < image > ?"
    own = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokenize(processor.tokenizer, text) == (own["input_ids"], own["offset_mapping"])


def test_the_inner_mark_cannot_come_from_outside(processor):
    assert protect(processor.tokenizer, f"a{BREAK}b<{BREAK}image>") == protect(processor.tokenizer, "ab<image>")


def test_tokens_that_are_added_later_are_known(processor):
    assert protect(processor.tokenizer, "<later>") == "<later>"
    processor.tokenizer.add_tokens(["<later>"], special_tokens=True)
    assert protect(processor.tokenizer, "<later>") != "<later>"


def test_questions_of_benchmarks_have_one_image_whatever_they_say(processor):
    prompt = chat_prompt(processor, "what is <image> and </s> ?")
    ids, _ = tokenize(processor.tokenizer, prompt)
    assert ids.count(processor.image_token_id) == 1
    assert processor.tokenizer.eos_token_id not in ids


def test_a_python_tokenizer_refuses_what_it_cannot_keep_apart(monkeypatch):
    tokenizer = make("bytes")
    monkeypatch.setattr(type(tokenizer), "is_fast", False)

    with pytest.raises(UserError, match="llm.tokenizer"):
        tokenize(tokenizer, protect(tokenizer, "</s>"))
