"""Skip attention on five rows worked out by hand, and what it must and must not compute."""

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.methods import make_method
from proxyv.methods.shared.text_queries import make_text_query_plan
from proxyv.methods.skip_attention import SkipAttentionLayer
from proxyv.model.families import FAMILIES
from proxyv.profiling import profile_recipe
from tests.tiny import random_image, tiny_model
from tests.unit.methods.few_rows import LAYOUT, ROWS, few_rows_llm
from tests.unit.methods.ragged import check_vision_tokens_are_blind

METHOD = {"name": "skip_attention", "start_layer": 1}


def test_five_rows_by_hand():
    llm = few_rows_llm(SkipAttentionLayer, make_method({"name": "skip_attention", "start_layer": 0}))
    plan = make_text_query_plan(LAYOUT, llm.model.rotary_emb, "sdpa", ROWS)
    # Values, the first two entries: t (1, 1), a (1, −1), b (−1, −1), n (1, 1), u (−1, 1). Both query heads take the one
    # value head. Text and newline take the mean of what is before them, a and b their own. The FFN adds one.
    expected = [
        [3, 3, 3, 3],  # t + (1, 1, 1, 1) + 1
        [3, -1, 3, 1],  # a + (1, −1, 1, −1) + 1
        [-1, -1, 1, 1],  # b + (−1, −1, −1, −1) + 1
        [2.5, 2, 0.5, 2],  # n + (0.5, 0, 0.5, 0) + 1: the mean of t, a, b, n
        [0.2, 2.2, 2.2, 0.2],  # u + (0.2, 0.2, 0.2, 0.2) + 1: the mean of all
    ]
    with torch.no_grad():
        found = llm.model.layers[0](ROWS, vision_plan=plan)
    torch.testing.assert_close(found[0], torch.tensor(expected))


def test_queries_are_computed_for_text_and_newlines_only():
    model, processor = tiny_model("llama", METHOD)
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    rows, crops = inputs["input_ids"].shape[1], len(inputs["pixel_values"])
    attention = model.language_model.model.layers[1].self_attn
    seen = {}
    for name in ("q_proj", "k_proj", "o_proj"):
        getattr(attention, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape[1]}))
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert seen == {"q_proj": rows - 16 * crops, "k_proj": rows, "o_proj": rows}
    assert {layer.get_seq_length() for layer in cache.layers} == {rows}


def test_no_parameters_are_added():
    model, full = tiny_model("llama", METHOD)[0], tiny_model("llama")[0]
    assert dict(model.named_parameters()).keys() == dict(full.named_parameters()).keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_before_a_image_does_not_reach_its_vision_tokens(family):
    """Nothing does: each goes its own way. In the baseline they see the text."""
    model, processor = tiny_model(family, {"name": "skip_attention", "start_layer": 0})
    check_vision_tokens_are_blind(model, processor)


def test_published_reduction():
    """The published 11 %, of 12 layers that are left alone and 20 that are not."""
    recipe = load_recipe("configs/recipes/vicuna-7b-full.yaml")
    recipe.method = {"name": "skip_attention", "start_layer": 12}
    reduction = profile_recipe(recipe, compare="full")["decoder_flops_reduction"]
    assert 100 * reduction == pytest.approx(11.1, abs=0.1)
