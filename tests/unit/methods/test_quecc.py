"""QueCC: windows pooled by queries that know the question."""

import math

import pytest
import torch
from torch import nn

from proxyv.errors import UserError
from proxyv.methods.quecc import QuestionPooling, question_rows, question_states
from proxyv.model.layout import make_layout
from proxyv.model.method import Prompt
from tests.tiny import tiny_model
from tests.unit.methods.ragged import check_cached_rows, ragged_batch

FIELDS = {"name": "quecc", "window": 2, "key_layers": [1, 3], "heads": 2}
TEXTS = ["A <image> value of C", "which word", "<image>AB<image>C"]


def prompt_of(model, inputs, labels=None):
    return model.read_prompt(inputs["input_ids"], inputs["attention_mask"], inputs["crops_per_image"], labels=labels)


def test_pooling_by_hand():
    """One window of 2 × 2 patches of width 1, every learned map the identity but the one that shrinks: a mean."""
    pooling = QuestionPooling(1, 1, 1, window=2, heads=1)
    for name in ("question", "query", "key", "value", "query_proj", "key_proj", "value_proj", "out_proj"):
        setattr(pooling, name, nn.Identity())
    nn.init.constant_(pooling.shrink.weight, 0.25)
    nn.init.zeros_(pooling.shrink.bias)
    patches = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    layers = torch.tensor([[[0.0], [0.0], [0.0], [math.log(3) / 3]]])
    # The query is mean(1, 2, 3, 4) + 0.5 = 3, so the scores are 0, 0, 0, ln 3 and the weights 1/6, 1/6, 1/6, 3/6.
    pooled = pooling(patches, layers, torch.tensor([[0.5]]))
    assert pooled.shape == (1, 1, 1) and pooled.item() == pytest.approx(math.log(3) / 6)


@pytest.mark.parametrize(
    "rows, expected",
    [  # "." padding, "i" image, "t" text, "s" supervised text
        ("ttiittss", "....tt.."),  # text before the image is no part of the question
        (".iitttss", "...ttt.."),
        ("iitsstts", "..t....."),  # the first question of several
        ("tstiitss", ".....t.."),  # an image in the second turn
        ("...ttiis", "...tt..."),  # nothing behind the image: the text before it
        ("..iissss", "........"),  # no text at all
        ("..iitttt", "....tttt"),  # inference
        ("...tttii", "...ttt.."),
        ("ttssttss", "tt......"),  # no image
    ],
)
def test_question_rows_by_hand(rows, expected):
    """Crops of one vision token and its newline: two rows an image."""
    marks = torch.tensor([[ord(mark) for mark in rows]])
    is_image, supervised = marks == ord("i"), marks == ord("s")
    labels = torch.where(supervised, 5, -100) if "s" in rows else None
    layout = make_layout(is_image, marks != ord("."), [1] * (rows.count("i") // 2), 1, labels=labels)
    found = question_rows(Prompt(marks, layout), is_image)[0]
    assert "".join("t" if row else "." for row in found) == expected


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_question_states_are_those_of_each_question_alone(family):
    """In a batch of questions of different lengths, left-padded, with a sample that has no image."""
    model, processor = tiny_model(family, FIELDS)
    with torch.no_grad():
        states = question_states(model, prompt_of(model, ragged_batch(processor, TEXTS)))
        for sample, question in ((0, " value of C"), (2, "C")):  # what stands behind the last image
            ids = processor(text=[question])["input_ids"]
            alone = model.language_model.model(input_ids=ids).last_hidden_state[0, -1]
            torch.testing.assert_close(states[sample], alone, atol=1e-5, rtol=1e-4)
    assert not states[1].any()


def test_the_question_steers_all_crops_of_its_sample_only():
    model, processor = tiny_model("qwen2", FIELDS)
    tokens = []
    for texts in (TEXTS, [TEXTS[0], TEXTS[1], "<image>AB<image>D"]):
        inputs = ragged_batch(processor, texts)
        prompt = prompt_of(model, inputs)
        with torch.no_grad():
            tokens.append(model.method.select(model, model.view(inputs["pixel_values"]), prompt).values)
    changed = (tokens[0] - tokens[1]).abs().flatten(1).amax(1) > 1e-4
    assert torch.equal(changed, prompt.layout.sample_of_crop == 2)


def test_an_answer_changes_no_vision_token():
    model, processor = tiny_model("llama", FIELDS)
    tokens = []
    for answer in "AB":
        inputs = ragged_batch(processor, ["<image>CD" + answer])
        labels = inputs["input_ids"].clone()
        labels[:, :-1] = -100
        with torch.no_grad():
            view = model.view(inputs["pixel_values"])
            tokens.append(model.method.select(model, view, prompt_of(model, inputs, labels)).values)
    assert torch.equal(*tokens)


def test_the_question_is_read_without_gradient():
    model, processor = tiny_model("llama", FIELDS)
    model.train()
    inputs = ragged_batch(processor, TEXTS)
    prompt = prompt_of(model, inputs)
    assert not question_states(model, prompt).requires_grad
    model.method.select(model, model.view(inputs["pixel_values"]), prompt).values.sum().backward()
    assert all(parameter.grad is None for parameter in model.language_model.parameters())
    assert all(parameter.grad is not None for parameter in model.reducer.parameters())


def test_every_rank_reads_a_question():
    """A training batch without images takes the same steps through the LLM as one with images."""
    model, processor = tiny_model("llama", FIELDS)
    calls = []
    model.language_model.model.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    inputs = ragged_batch(processor, TEXTS)
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100))
    ids = processor(text=["value of C"])["input_ids"]
    model(input_ids=ids, labels=ids)
    assert len(calls) == 4


@pytest.mark.parametrize("window, tokens", [(2, 4), (4, 1)])
def test_every_layers_cache_holds_the_windows(window, tokens):
    model, processor = tiny_model("qwen2", {**FIELDS, "window": window})
    check_cached_rows(model, processor, tokens)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"window": 3}, "method.window: 3"),
        ({"window": 1}, "method.window: 1 .* from 2"),
        ({"key_layers": [12]}, "method.key_layers: 12"),
        ({"key_layers": []}, "method.key_layers"),
        ({"heads": 3}, "method.heads: 3"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {**FIELDS, **fields})
