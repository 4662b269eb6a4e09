"""G-Search's and P-Sigmoid's shares by layer, worked out, and what they leave in each layer."""

import math

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from tests.tiny import random_image, tiny_model


def test_the_published_curve_has_one_share_for_each_of_32_layers():
    """Counted from 1 in the paper: 1 and 2 keep all, 3 keeps 0.65, 8 to 11 half, 13 to 16 0.235, 27 to 29 0.04."""
    method = make_method({"name": "g_search"})
    curve = method.curve(32)
    assert tuple(curve) == method.shares and len(curve) == 32
    assert [curve[layer - 1] for layer in (1, 2, 3, 8, 11, 13, 16, 27, 29)] == [
        1,
        1,
        0.65,
        0.5,
        0.5,
        *[0.235] * 2,
        *[0.04] * 2,
    ]
    drops = method.schedule(32)
    assert list(drops)[:4] == [2, 3, 4, 7] and drops[2] == 0.65  # layers 5 to 7 keep what layer 4 left
    assert method.count(576, drops[2]) == 374  # 374.4


def test_another_depth_reads_the_curve_at_the_same_relative_depth():
    """Of 4 shares for 8 layers each counts twice; for 3 layers the middles lie at 1/6, 1/2 and 5/6 of the depth."""
    method = make_method({"name": "g_search", "shares": [1.0, 0.8, 0.4, 0.2]})
    assert method.curve(8) == [1, 1, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert method.curve(3) == [1, 1, 0.2]
    assert method.schedule(8) == {2: 0.8, 4: 0.4, 6: 0.2}
    assert make_method({"name": "g_search"}).curve(40)[:3] == [1, 1, 0.65]


def test_the_sigmoid_meets_its_budget():
    """With the midpoint at layer 3 of 6, steepness ln 3: 3^(3 − l) against 1 is 3/4, 1/2, 1/4, 1/10 for l = 2 to 5.
    With two full layers the mean is (2 + 1.6) / 6 = 0.6."""
    method = make_method({"name": "p_sigmoid", "steepness": math.log(3), "budget": 0.6})
    assert method.curve(6) == pytest.approx([1, 1, 3 / 4, 1 / 2, 1 / 4, 1 / 10])
    assert list(method.schedule(6)) == [2, 3, 4, 5]


@pytest.mark.parametrize("steepness", [0.001, 0.4808, 60.0])
@pytest.mark.parametrize("budget", [0.07, 0.16, 0.5, 0.99])
def test_any_budget_is_met_and_shares_never_rise(steepness, budget):
    curve = make_method({"name": "p_sigmoid", "steepness": steepness, "budget": budget}).curve(32)
    assert sum(curve) / 32 == pytest.approx(budget, abs=1e-9)
    assert sorted(curve, reverse=True) == list(curve) and curve[0] == 1


@pytest.mark.parametrize(
    "method, kept",
    [
        ({"name": "g_search", "shares": [1.0, 1.0, 0.62]}, [48, 48, 30]),  # 3 crops · 16 · 0.62 = 29.76
        ({"name": "p_sigmoid", "steepness": 9.0, "budget": 0.5, "full_layers": 1}, [48, 24, 0]),
    ],
)
def test_layers_hold_their_share(method, kept):
    """The sigmoid may spend 1.5 layers, and the first is full; so steep, it gives the second what is left."""
    model, processor = tiny_model("qwen2", method)
    inputs = processor(text=["A <image> B"], images=[[random_image(60, 40)]])
    rest = inputs["input_ids"].shape[1] - 48
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        assert [layer.keys.shape[2] - rest for layer in output.past_key_values.layers] == kept
        model.generate(**inputs, max_new_tokens=3)  # also where no vision token is left
    assert output.logits.shape[1] == rest + kept[-1]
    assert [layer.positions(1).item() for layer in output.past_key_values.layers[1:]] == [rest + 48] * 2


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"name": "g_search", "shares": []}, "shares"),
        ({"name": "g_search", "shares": [0.5, 0.6]}, "shares"),
        ({"name": "g_search", "shares": [1.5, 1.0]}, "shares"),
        ({"name": "g_search", "shares": [1.0, 0.9, 0.5]}, "shares"),  # of three layers, the first two keep all
        ({"name": "p_sigmoid", "steepness": 0.0}, "steepness"),
        ({"name": "p_sigmoid", "full_layers": 3}, "full_layers"),
        ({"name": "p_sigmoid", "budget": 0.6}, "budget"),  # two layers of three take more
    ],
)
def test_fields_that_do_not_fit(fields, field):
    model, _ = tiny_model()
    with pytest.raises(UserError, match=rf"method\.{field}"):
        make_method(fields).check(model.config, 16)
