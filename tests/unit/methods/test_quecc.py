"""QueCC: windows pooled by queries that know the question."""

import math

import pytest
import torch
from torch import nn

from proxyv.data.encoding import encode_text
from proxyv.errors import UserError
from proxyv.methods.quecc import QuestionPooling, question_rows, question_states
from proxyv.model.layout import make_layout
from proxyv.model.method import Prompt
from proxyv.model.turns import turn_tokens
from proxyv.train.start import load_start
from tests.chat_tokenizer import TEMPLATES, chat_processor
from tests.tiny import random_image, tiny_model, tiny_recipe
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


MARKS = {"begin": [ord("b")], "user": [[ord("u")]], "answer": [[ord("a"), ord(":")]], "blank": [ord("_")]}


@pytest.mark.parametrize("supervised", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    "rows, expected",
    [  # "." padding, "i" image, "b" begin, "u" and "a:" marks of turns, "_" blank, "t" text, "s" an answer
        ("..bTuii_t_t_a:ss", "........ttt....."),
        ("bTuii_tt_a:ssuttta:ss", "......tt............."),  # later turns do not count
        ("buttta:ssutt_ii_ta:ss", "................t...."),  # an image in the second turn
        ("bTutt_tii_a:ss", "...tttt......."),  # an image behind the question
        ("buttta:ssutt_ii_a:ss", "..........tt........"),  # and in the second turn
        ("buttiitt_iia:ss", "..tt..tt......."),  # two images, the last behind the question
        ("bTuii__a:ss", "..........."),  # no question
        ("buttta:ss", ".tttt...."),  # no image
        ("tii_tt", "....tt"),  # no marks
        ("bttii", ".tt.."),
    ],
)
def test_question_rows_between_marks(rows, expected, supervised):
    """With the marks that a template writes, training and inference read the same rows."""
    ids = torch.tensor([[ord(mark) for mark in rows]])
    is_image = ids == ord("i")
    labels = torch.where(ids == ord("s"), 5, -100) if supervised else None
    layout = make_layout(is_image, ids != ord("."), [1] * (rows.count("i") // 2), 1, labels=labels)
    found = question_rows(Prompt(ids, layout), is_image, MARKS)[0]
    assert "".join("t" if row else "." for row in found) == expected


MESSAGES = [
    {"role": "user", "content": "<image>\nWhat is the capital?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
    {"role": "assistant", "content": "Rome, of course."},
    {"role": "user", "content": "Of France?"},
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("pieces", ["bytes", "words"])
@pytest.mark.parametrize(
    "content", ["<image>\nWhat is the capital?", "What is the capital?\n<image>", "What is the capital? <image>\n"]
)
def test_every_template_gives_one_question_in_training_and_at_inference(template, pieces, content):
    processor = chat_processor(template, pieces, begin=pieces == "words")
    turns = turn_tokens(processor)
    messages = [{"role": "user", "content": content}, *MESSAGES[1:]]

    def question(ids, labels=None):
        is_image = ids == processor.image_token_id
        rows = question_rows(Prompt(ids, make_layout(is_image, None, [2], 16, labels=labels)), is_image, turns)
        return processor.tokenizer.decode(ids[rows]).strip()

    ids, labels = (torch.from_numpy(array)[None] for array in encode_text(processor, messages[:4], [2]))
    found = [question(ids, labels)]
    for turn in (1, 3, 5):
        text = processor.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        found.append(question(torch.tensor([processor.expand(ids, iter([2]))])))
    assert found == ["What is the capital?"] * 4


def test_a_conversation_has_the_vision_tokens_at_inference_that_it_has_in_training():
    """And the prompt of its first turn alone has them too."""
    model, processor = tiny_model("llama", FIELDS)
    model.config.turn_tokens = dict(turn_tokens(processor))
    words = ["<image>\nvalue of A", "B", "which word", "C"]
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(words)]
    picture = random_image(60, 40, 1)
    crops = [len(processor.image_processor.crops(picture))]
    ids, labels = (torch.from_numpy(array)[None] for array in encode_text(processor, messages, crops))
    tokens = []
    for turns, supervised in ((messages, labels), (messages, None), (messages[:3], None), (messages[:1], None)):
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[[picture]])
        assert supervised is None or torch.equal(inputs["input_ids"], ids)
        with torch.no_grad():
            view = model.view(inputs["pixel_values"])
            tokens.append(model.method.select(model, view, prompt_of(model, inputs, supervised)).values)
    assert all(torch.equal(found, tokens[0]) for found in tokens[1:])


def test_the_tokenizers_begin_stands_before_the_question():
    """And alone, where there is no question."""
    model, processor = tiny_model("llama", FIELDS)
    model.config.turn_tokens = {**turn_tokens(processor), "begin": [1]}
    with torch.no_grad():
        states = question_states(model, prompt_of(model, ragged_batch(processor, TEXTS)))
        ids = [[1, *processor.tokenizer(text)["input_ids"]] for text in ("value of C", "C")]
        alone = [model.language_model.model(input_ids=torch.tensor([one])).last_hidden_state[0, -1] for one in ids]
        torch.testing.assert_close(states[[0, 2]], torch.stack(alone), atol=1e-5, rtol=1e-4)
        empty = question_states(model, prompt_of(model, ragged_batch(processor, ["<image>"])))[0]
        begin = model.language_model.model(input_ids=torch.tensor([[1]])).last_hidden_state[0, -1]
        torch.testing.assert_close(empty, begin)
    assert not states[1].any()


def test_fresh_weights_are_the_published_ones():
    """torch's multi-head attention for the four maps of the attention, torch's own scale for the rest."""
    size = 64
    torch.manual_seed(0)
    fresh = QuestionPooling(48, size, 2, window=2, heads=2)
    like = nn.MultiheadAttention(size, 2)
    assert torch.count_nonzero(like.in_proj_bias) == torch.count_nonzero(like.out_proj.bias) == 0
    bound = (6 / (4 * size)) ** 0.5  # Xavier over queries, keys and values as one matrix
    assert like.in_proj_weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    for name in ("query_proj", "key_proj", "value_proj"):
        check_uniform(getattr(fresh, name).weight, bound)
    check_uniform(fresh.out_proj.weight, size**-0.5)
    check_uniform(like.out_proj.weight, size**-0.5)
    for layer in (fresh.query_proj, fresh.value_proj, fresh.out_proj):
        assert torch.count_nonzero(layer.bias) == 0
    check_uniform(fresh.question[0].weight, 48**-0.5)
    check_uniform(fresh.question[0].bias, 48**-0.5)
    check_uniform(fresh.key[0].weight, (2 * size) ** -0.5)
    check_uniform(fresh.shrink.weight, 4**-0.5)


def check_uniform(values, bound):
    """Largest value and standard deviation of a uniform draw from −bound to bound."""
    assert bound * 0.9 < values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_model_begins_with_the_published_weights():
    """`initialize_weights` draws again for every module of the method."""
    model, _ = tiny_model("llama", FIELDS)
    reducer = model.reducer
    for name in ("query_proj", "key_proj", "value_proj"):
        assert reducer.get_submodule(name).weight.abs().max().item() == pytest.approx((6 / 128) ** 0.5, rel=0.02)
    assert reducer.out_proj.weight.abs().max().item() == pytest.approx(32**-0.5, rel=0.02)
    for layer in (reducer.query_proj, reducer.value_proj, reducer.out_proj):
        assert torch.count_nonzero(layer.bias) == 0


@pytest.mark.parametrize("method, known", [(FIELDS, True), ({"name": "full"}, False)])
def test_a_trained_model_knows_its_templates_turns(method, known):
    model, processor = load_start(tiny_recipe("llama", method), None)
    assert model.config.turn_tokens == (turn_tokens(processor) if known else None)
    assert type(model.config).from_dict(model.config.to_dict()).turn_tokens == model.config.turn_tokens


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
