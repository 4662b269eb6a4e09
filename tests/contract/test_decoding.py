"""Every way in which `generate` decodes, under every method: equal to plain greedy decoding of each sample, or refused
in one line."""

import copy

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache

from proxyv.errors import UserError
from proxyv.methods import method_classes
from tests.contract.method_settings import method_fields
from tests.contract.test_methods import alone, inputs_of
from tests.tiny import tiny_model

METHODS = sorted(method_classes())
every_method = pytest.mark.parametrize("name", METHODS)
NEW = 3
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
DROPPED = "needs an empty dynamic cache"


class Unchanged(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


def keeps_all_rows(model, processor):
    """Whether the cache holds every row of the prompt in every layer."""
    inputs = inputs_of(processor, "one image")
    with torch.no_grad():
        layers = model(**inputs, use_cache=True).past_key_values.layers
    return all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def new_tokens(output, inputs):
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    return sequences[:, inputs["input_ids"].shape[1] :]


def followed(model, inputs, continued, settings):
    """The next tokens of a conversation that goes on from the first turn's cache."""
    cache = DynamicCache()
    first = model.generate(**inputs, **GREEDY, past_key_values=cache)
    ids = torch.cat([first, continued.expand(len(first), -1)], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids[:, inputs["attention_mask"].shape[1] :])], 1)
    return model.generate(input_ids=ids, attention_mask=mask, **GREEDY, past_key_values=cache, **settings)[:, -NEW:]


@every_method
def test_ways_that_do_not_change_the_choice_equal_greedy_decoding_of_each_sample(name):
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, "batch")
    expected = torch.cat([new_tokens(model.generate(**s, **GREEDY), s) for s in alone(processor, "batch")])
    for settings in (
        {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
        {"cache_implementation": "dynamic", "logits_processor": LogitsProcessorList([Unchanged()])},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
    ):
        found = new_tokens(model.generate(**{**inputs, **GREEDY, **settings}), inputs)
        assert torch.equal(found, expected.repeat_interleave(settings.get("num_return_sequences", 1), 0)), settings
    unmasked = {key: value for key, value in inputs.items() if key != "attention_mask"}
    assert torch.equal(new_tokens(model.generate(**unmasked, **GREEDY), inputs), expected)  # the pad token tells it
    boolean = {**inputs, "attention_mask": inputs["attention_mask"].bool()}
    assert torch.equal(new_tokens(model.generate(**boolean, **GREEDY), inputs), expected)


@every_method
def test_beams_have_the_scores_of_one_pass(name):
    """The score of each returned beam is the answer's probability behind the whole prompt, in a batch."""
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, "batch")
    beams = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0}
    output = model.generate(**inputs, **GREEDY, **beams, return_dict_in_generate=True, output_scores=True)
    answers = new_tokens(output, inputs)
    for index, sample in enumerate(alone(processor, "batch")):
        for answer, score in zip(
            answers[2 * index : 2 * index + 2], output.sequences_scores[2 * index : 2 * index + 2], strict=True
        ):
            ids = torch.cat([sample["input_ids"], answer[None]], 1)
            labels = torch.cat([torch.full_like(sample["input_ids"], -100), answer[None]], 1)
            whole = {**sample, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with torch.no_grad():
                loss = model(**whole, labels=labels, num_items_in_batch=1).loss
            torch.testing.assert_close(score, -loss, atol=1e-3, rtol=1e-4)


@every_method
def test_ways_with_a_cache_of_their_own_equal_greedy_decoding_or_are_refused(name):
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, "batch")
    static = {"cache_implementation": "static", "disable_compile": True}
    if keeps_all_rows(model, processor):
        assert torch.equal(model.generate(**inputs, **GREEDY, **static), model.generate(**inputs, **GREEDY))
    else:
        with pytest.raises(UserError, match=DROPPED):
            model.generate(**inputs, **GREEDY, **static)


@every_method
def test_a_draft_changes_no_token_or_is_refused(name):
    """Another model drafts, which sees the images too; or the prompt's own text does."""
    model, processor = tiny_model("llama", method_fields(name))
    draft, _ = tiny_model("llama", {"name": "full"}, seed=3)
    seen = []
    draft.vision_tower.register_forward_hook(lambda *_: seen.append(1))
    inputs = inputs_of(processor, "one image")
    for settings in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 2}):
        if model.method.prompt_aware:
            with pytest.raises(UserError, match=f"assisted decoding lets {name} choose vision tokens"):
                model.generate(**inputs, **GREEDY, **settings)
        else:
            expected = model.generate(**inputs, **GREEDY)
            assert torch.equal(model.generate(**inputs, **GREEDY, **settings), expected)
    assert len(seen) == (0 if model.method.prompt_aware else 1)


@every_method
def test_decoding_without_a_cache_equals_decoding_with_one_or_is_refused(name):
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, "batch")
    if model.method.prompt_aware:
        with pytest.raises(UserError, match=f"lets {name} choose vision tokens"):
            model.generate(**inputs, **GREEDY, use_cache=False)
    else:
        assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), model.generate(**inputs, **GREEDY))


@every_method
def test_a_conversation_goes_on_alike_however_it_is_given(name):
    """The whole conversation or the new turn alone, from the cache that the caller gave or `generate` returns."""
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, "one image")
    turn = processor(text=["value of C value of C"])["input_ids"]
    expected = followed(model, inputs, turn, {})
    with pytest.raises(UserError, match="assisted decoding"):
        followed(model, inputs, turn, {"prompt_lookup_num_tokens": 2})
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, turn], 1)
    for given in (ids, ids[:, -turn.shape[1] - 1 :]):  # the last answer's token is not in the cache yet
        cache = copy.deepcopy(first.past_key_values)
        found = model.generate(input_ids=given, attention_mask=torch.ones_like(ids), **GREEDY, past_key_values=cache)
        assert torch.equal(found[:, -NEW:], expected)


@every_method
def test_what_would_be_wrong_is_refused(name):
    model, processor = tiny_model("llama", method_fields(name))
    inputs, one = inputs_of(processor, "batch"), inputs_of(processor, "one image")
    right = {**inputs, "input_ids": inputs["input_ids"].flip(1), "attention_mask": inputs["attention_mask"].flip(1)}
    text = {key: one[key] for key in ("input_ids", "attention_mask")}
    cache = DynamicCache()
    first = model.generate(**one, **GREEDY, past_key_values=cache)
    turn, more = processor(text=["value of C"])["input_ids"], {"attention_mask": torch.ones_like(first)}
    for message, given in (
        ("attention_mask: padding on the right", right),
        ("pixel_values: missing", text),
        ("prefill_chunk_size", {**one, "prefill_chunk_size": 4}),
        ("assistant_early_exit", {**one, "assistant_early_exit": 1}),
        ("past_key_values: .* went into the cache", {"input_ids": turn, "past_key_values": cache}),
        ("past_key_values: hold 1 samples", {"input_ids": first, **more, "past_key_values": cache, "num_beams": 2}),
    ):
        with pytest.raises(UserError, match=message):
            model.generate(**given, **GREEDY)
    with pytest.raises(UserError, match="pixel_values: missing"):
        model(**text)


def test_a_draft_that_drops_vision_tokens_is_refused():
    """Stock assisted decoding takes back rejected drafts by the number of rows in the cache."""
    model, processor = tiny_model("llama", {"name": "full"})
    draft, _ = tiny_model("llama", {"name": "uniform", "tokens": 5}, seed=3)
    with pytest.raises(UserError, match="assistant_model: drops vision tokens"):
        model.generate(**inputs_of(processor, "one image"), **GREEDY, assistant_model=draft)


def test_a_static_cache_holds_the_authors_newline_positions():
    model, processor = tiny_model("llama", {"name": "full"})
    model.config.newline_positions = "authors"
    inputs = inputs_of(processor, "batch")
    for back_end in ("sdpa", "eager"):
        model.set_attn_implementation(back_end)
        static = model.generate(**inputs, **GREEDY, cache_implementation="static", disable_compile=True)
        assert torch.equal(static, model.generate(**inputs, **GREEDY))


def test_a_placeholder_is_never_written():
    """Its id may lie within the vocabulary; behind a warper that leaves one token, and while drafts are checked."""
    model, processor = tiny_model("llama", {"name": "full"})
    inputs = inputs_of(processor, "one image")
    head = model.get_output_embeddings()
    placeholder = model.config.image_token_id
    assert placeholder < len(head.weight)

    def favour(module, args, logits):
        return logits.index_fill(-1, torch.tensor([placeholder]), 1e4)

    head.register_forward_hook(favour)
    for settings in ({}, {"do_sample": True, "top_k": 1}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}):
        output = model.generate(**inputs, **{**GREEDY, **settings})
        assert placeholder not in new_tokens(output, inputs)
