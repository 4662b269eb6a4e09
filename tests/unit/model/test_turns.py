"""Which tokens mark the turns of a prompt, read off every shipped chat template."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.turns import occurrences, turn_tokens
from tests.chat_tokenizer import TEMPLATES, chat_processor, make_chat_tokenizer

every_template = pytest.mark.parametrize("template", TEMPLATES)
every_tokenizer = pytest.mark.parametrize("pieces", ["bytes", "words"])
ANSWER = {
    "vicuna_v1": "ASSISTANT:",
    "qwen": "<|im_end|>\n<|im_start|>assistant",
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
    "phi3": "<|end|>\n<|assistant|>",
    "internlm2": "<|im_end|>\n<|im_start|>assistant",
    "characters": "<answer>",
    "granite": "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "gemma": "<end_of_turn>\n<start_of_turn>model",
    "olmo2": "<|assistant|>",
}

USER = {"vicuna_v1": {"USER:"}, "characters": {"<s>", "</s>"}}


@every_template
@every_tokenizer
def test_marks_are_what_the_template_writes(template, pieces):
    processor = chat_processor(template, pieces)
    turns = turn_tokens(processor)
    written = {processor.tokenizer.decode(mark).strip() for mark in turns["answer"]}
    assert written == {ANSWER[template]}
    before = {processor.tokenizer.decode(mark).strip() for mark in turns["user"]}
    assert before == USER.get(template) or all("user" in text for text in before)
    assert {processor.tokenizer.decode([token]).strip() for token in turns["blank"]} == {""}


@every_template
@every_tokenizer
@pytest.mark.parametrize("end", ["?", "", " ", "\n", "<image>", "<image>\n"])
def test_marks_are_found_at_every_turn(template, pieces, end):
    processor = chat_processor(template, pieces)
    turns = turn_tokens(processor)
    question = {"role": "user", "content": "What is the capital" + end}
    messages = [question, {"role": "assistant", "content": "Rome, of course."}] * 3 + [question]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert sum(int(occurrences(ids, mark).sum()) for mark in turns["answer"]) == 4
    users = torch.stack([occurrences(ids, mark) for mark in turns["user"]]).any(0)
    assert int(users.sum()) == 4


@pytest.mark.parametrize("begin, expected", [(True, [1]), (False, [])])
def test_begin_is_what_the_tokenizer_puts_first(begin, expected):
    assert turn_tokens(chat_processor("vicuna_v1", "words", begin))["begin"] == expected


def test_a_template_that_leaves_out_what_is_said_is_refused():
    processor = ProxyVProcessor(ProxyVImageProcessor(), make_chat_tokenizer(), "{{ messages[0].role }}")
    with pytest.raises(UserError, match="llm.chat_template"):
        turn_tokens(processor)


def test_occurrences_by_hand():
    ids = torch.tensor([[1, 2, 1, 2, 3], [2, 3, 1, 1, 2]])
    assert occurrences(ids, [1, 2]).nonzero().tolist() == [[0, 0], [0, 2], [1, 3]]
    assert not occurrences(ids, []).any() and not occurrences(ids, [1] * 6).any()
