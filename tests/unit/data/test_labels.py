"""What is supervised, per chat template: answers and their end tokens, nothing else."""

from itertools import groupby

import numpy as np
import pytest

from proxyv.constants import IGNORE_INDEX
from proxyv.data.encoding import check_template, encode_text, render
from proxyv.errors import UserError
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.processing import ProxyVProcessor
from tests.chat_tokenizer import chat_processor, make_chat_tokenizer

END = {"vicuna_v1": "</s>", "qwen": "<|im_end|>", "llama3": "<|eot_id|>", "characters": "</s>"}
END |= {"granite": "<|end_of_text|>", "gemma": "<end_of_turn>", "olmo2": "<|endoftext|>"}
TEMPLATES = tuple(END)
BEGIN = dict.fromkeys(TEMPLATES, "") | {"vicuna_v1": " "}
TWO_TURNS = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And is Paris. the capital of Italy?"},
    {"role": "assistant", "content": "Rome é世, of course."},
]


@pytest.fixture(params=TEMPLATES)
def template(request):
    return request.param


@pytest.fixture
def processor(template):
    return chat_processor(template)


def supervised_runs(processor, messages, crops=()):
    """The text of each run of supervised tokens."""
    ids, labels = encode_text(processor, messages, crops)
    assert np.array_equal(labels[labels != IGNORE_INDEX], ids[labels != IGNORE_INDEX])
    pairs = zip(labels != IGNORE_INDEX, ids.tolist(), strict=True)
    runs = [(kind, [i for _, i in members]) for kind, members in groupby(pairs, key=lambda pair: pair[0])]
    return [processor.tokenizer.decode(members) for kind, members in runs if kind]


def test_only_answers_and_end_tokens_are_supervised(processor, template):
    begin, end = BEGIN[template], END[template]
    assert supervised_runs(processor, TWO_TURNS) == [f"{begin}Paris.{end}", f"{begin}Rome é世, of course.{end}"]


def test_empty_answer_supervises_the_end_token(processor, template):
    messages = [TWO_TURNS[0], {"role": "assistant", "content": ""}]
    assert supervised_runs(processor, messages) == [BEGIN[template] + END[template]]


def test_trailing_question_and_own_system_line_are_not_supervised(processor, template):
    messages = TWO_TURNS[:3]
    if template != "characters":
        messages = [{"role": "system", "content": "The capital is Paris."}, *messages]
    assert supervised_runs(processor, messages) == [f"{BEGIN[template]}Paris.{END[template]}"]


def test_several_images_expand_without_labels(processor, template):
    messages = [
        {"role": "user", "content": "What <image> is <image> the capital?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "<image>\nAnd Italy?"},
        {"role": "assistant", "content": "Rome"},
    ]
    ids, labels = encode_text(processor, messages, [3, 1, 2])
    images = ids == processor.image_token_id
    assert images.sum() == (3 + 1 + 2) * 17
    assert (labels[images] == IGNORE_INDEX).all()
    begin, end = BEGIN[template], END[template]
    assert supervised_runs(processor, messages, [3, 1, 2]) == [f"{begin}Paris.{end}", f"{begin}Rome{end}"]


def test_prompt_at_generation_is_the_prefix_that_was_trained(processor, template):
    prompt = processor.apply_chat_template(TWO_TURNS[:3], add_generation_prompt=True, tokenize=False)
    prompt_ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids, labels = encode_text(processor, TWO_TURNS, [])
    assert ids[: len(prompt_ids)].tolist() == prompt_ids
    assert labels[len(prompt_ids)] != IGNORE_INDEX and labels[len(prompt_ids) - 1] == IGNORE_INDEX


def test_rendering_for_labels_equals_rendering_for_generation(processor):
    assert render(processor, TWO_TURNS)[0] == processor.apply_chat_template(TWO_TURNS, tokenize=False)


def test_template_without_generation_spans_is_refused():
    processor = ProxyVProcessor(ProxyVImageProcessor(), make_chat_tokenizer(), "{{ messages[0].content }}")
    with pytest.raises(UserError, match="llm.chat_template.*generation"):
        check_template(processor)


def test_marks_in_answers_and_without_images_are_text(processor):
    """No image row comes from them, and no turn ends early; answers are learned as they are."""
    odd = "Say <image> and </s> or <|im_end|><|eot_id|>."
    messages = [{"role": "user", "content": odd}, {"role": "assistant", "content": odd}]
    known = [*END.values(), "<image>"]
    control = [processor.tokenizer.convert_tokens_to_ids(name) for name in known]
    ids, labels = encode_text(processor, messages, [])
    plain = [{**message, "content": "Say so."} for message in messages]
    expected, _ = encode_text(processor, plain, [])
    assert [i for i in ids.tolist() if i in control] == [i for i in expected.tolist() if i in control]
    answer = processor.tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()[:-1])
    assert answer.strip() == odd
    with_image = [{**messages[0], "content": "<image>\nWhat?"}, messages[1]]
    ids, labels = encode_text(processor, with_image, [2])
    assert (ids == processor.image_token_id).sum() == 2 * 17
    assert processor.tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()[:-1]).strip() == odd
