"""The light MLP on five rows worked out by hand, its size at full width, and what it must and must not compute."""

import math

import pytest
import torch
from torch import nn

from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.methods.light_mlp import LightMLPLayer, LightUpdate
from proxyv.methods.shared.text_queries import make_text_query_plan
from proxyv.model.families import FAMILIES
from proxyv.profiling import profile_recipe
from tests.tiny import random_image, tiny_model
from tests.unit.methods.few_rows import LAYOUT, ROWS, few_rows_llm
from tests.unit.methods.ragged import check_vision_tokens_are_blind

METHOD = {"name": "light_mlp", "start_layer": 1, "hidden_ratio": 2}


def test_five_rows_by_hand():
    llm = few_rows_llm(LightMLPLayer, make_method({"name": "light_mlp", "start_layer": 0, "hidden_ratio": 4}))
    update = llm.model.layers[0].light_mlp
    update.input_proj.weight = nn.Parameter(torch.tensor([[1.0, 1, 0, 0]]))
    update.mix.weight = nn.Parameter(torch.tensor([[-1.0]]))
    update.up.weight = nn.Parameter(torch.tensor([[0.0], [0], [0], [1]]))
    plan = make_text_query_plan(LAYOUT, llm.model.rotary_emb, "sdpa", ROWS)
    # a = (1, −1, 1, 1): its first two entries add up to 0, and SiLU(0) = 0; the norm of ±1 is itself.
    # b = (−1, −1, 1, 1): they add up to −2, mixed to 2; SiLU(2) is added to the last entry, then the norm.
    last = 1 + 2 / (1 + math.exp(-2))
    rms = math.sqrt((3 + last**2) / 4)
    expected = [
        [3, 3, 3, 3],  # t + its own value (1, 1, 1, 1) + 1 of the FFN
        [1, -1, 1, 1],
        [-1 / rms, -1 / rms, 1 / rms, last / rms],
        [2.5, 2, 0.5, 2],  # n + (0.5, 0, 0.5, 0), the mean of the values of t, a, b, n, + 1
        [0.2, 2.2, 2.2, 0.2],  # u + (0.2, 0.2, 0.2, 0.2), the mean of all, + 1
    ]
    with torch.no_grad():
        found = llm.model.layers[0](ROWS, vision_plan=plan)
    torch.testing.assert_close(found[0], torch.tensor(expected))


def test_published_size():
    """9.44 M parameters per layer at a width of 4096: 4096 · 1024 + 1024² + 1024 · 4096, and 4096 of the norm."""
    with torch.device("meta"):
        update = LightUpdate(4096, 1024, 1e-5)
    assert sum(parameter.numel() for parameter in update.parameters()) == 9_441_280


def test_one_in_each_layer_from_the_start_but_the_last():
    model, _ = tiny_model("llama", {**METHOD, "start_layer": 0})
    assert [hasattr(layer, "light_mlp") for layer in model.language_model.model.layers] == [True, True, False]
    names = [name for name, _ in model.named_parameters() if model.module_group(name) == "method"]
    assert len(names) == 2 * 4 and all(".light_mlp." in name for name in names)


def test_vision_tokens_give_keys_and_values_only():
    model, processor = tiny_model("llama", METHOD)
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    rows, crops = inputs["input_ids"].shape[1], len(inputs["pixel_values"])
    layer = model.language_model.model.layers[1]
    seen = {}
    for module in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp"):
        hook = lambda m, i, o, module=module: seen.update({module: o.shape[1]})  # noqa: E731
        layer.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    queries = rows - 16 * crops
    assert seen == {"self_attn.q_proj": queries, "self_attn.v_proj": rows, "self_attn.o_proj": queries, "mlp": queries}
    assert {layer.get_seq_length() for layer in cache.layers} == {rows}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_before_a_image_does_not_reach_its_vision_tokens(family):
    model, processor = tiny_model(family, {**METHOD, "start_layer": 0})
    check_vision_tokens_are_blind(model, processor)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"start_layer": 3}, "method.start_layer: 3 is not a layer of the LLM; use 0 to 2"),
        ({"hidden_ratio": 5}, "method.hidden_ratio: 5 does not divide the LLM's width 32"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {**METHOD, **fields})


def test_published_reduction():
    """The published 50 %; ours lacks the last layer's update."""
    recipe = load_recipe("configs/recipes/vicuna-7b-full.yaml")
    recipe.method = {"name": "light_mlp", "start_layer": 12}
    reduction = profile_recipe(recipe, compare="full")["decoder_flops_reduction"]
    assert 100 * reduction == pytest.approx(49.7, abs=0.2)
