"""VisionZip on a tower view of six patches, worked out by hand."""

import math

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from tests.fake_view import FakeView
from tests.tiny import random_image, tiny_model, tiny_recipe

METHOD = {"name": "visionzip", "dominant": 3, "contextual": 2}
HIDDEN = [100, 1, 2, 4, 8, 16, 32]  # CLS, then patches 0 to 5, of width 1


def keys(b_of_last):
    """Two heads of size 2. First numbers are what the CLS query reads, as logarithms of the attention's weights; the
    second ones only say which tokens are alike."""
    #          CLS  p0   p1   p2   p3   p4   p5
    weights = [[1, 1, 10, 1, 1, 4, 2], [1, 1, 1, 1, 10, 4, 2]]  # of the two heads; 20 in all, each
    likeness = [[0, 200, 5, 3, 5, 0, b_of_last], [0, 0, 5, -1, 5, 0, b_of_last]]
    return [
        [math.log(weights[0][i]), likeness[0][i], math.log(weights[1][i]), likeness[1][i]] for i in range(len(HIDDEN))
    ]


def test_two_crops_by_hand():
    """Attention summed over heads: p0 2/20, p1 11/20, p2 2/20, p3 11/20, p4 8/20, p5 4/20. So p1 and p3 are dominant
    (without heads p4 would come first: 4·4 > 10·1).

    Of the others (p0, p2, p4, p5), every second is a target: p0 and p4. Directions, heads averaged: p0 (0, 100),
    p2 (0, 1), p4 (ln 4, 0), p5 (ln 2, b). In crop 0, b = 0.1: p2 → p0, p5 → p4. In crop 1, b = 50: both → p0.
    """
    root = math.sqrt(2)  # undoes the scale 1/√2 of heads of size 2
    view = FakeView([[[h] for h in HIDDEN]] * 2, [keys(0.1), keys(50)], [[root, 0, root, 0]] * 2, heads=2)
    found = make_method(METHOD).select(None, view, None)
    assert found.counts is None and found.extra is None
    torch.testing.assert_close(
        found.values[..., 0],
        torch.tensor(
            [
                [100.0, 2, 8, 1 + 4, 16 + 32],  # CLS, p1, p3, p0 + p2, p4 + p5
                [100.0, 2, 8, 1 + (4 + 32) / 2, 16],  # p0 + the mean of p2 and p5, p4 alone
            ]
        ),
    )


def test_every_layer_keeps_as_many_rows_as_the_fields_say():
    model, processor = tiny_model("llama", METHOD)
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    crops, text = int(inputs["crops_per_image"][0]), int((inputs["input_ids"] != processor.image_token_id).sum())
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert [layer.keys.shape[2] for layer in cache.layers] == [text + crops * (3 + 2 + 1)] * 3


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dominant": 0}, "method.dominant: must be at least 1, found 0"),
        ({"contextual": 0}, "method.contextual: must be at least 1, found 0"),
        ({"dominant": 15, "contextual": 2}, "more than the 16 of a crop"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {**METHOD, **fields})


def test_towers_that_do_not_fit():
    from proxyv.model.build import build_config

    recipe = tiny_recipe(method=METHOD)
    recipe.vision.feature_layer = 0  # the embeddings: no block made them
    with pytest.raises(UserError, match="vision.feature_layer: 0 .* use hidden state 1 to 3"):
        make_method(METHOD).check(build_config(recipe), 16)
    recipe.vision.feature_layer = -1
    make_method(METHOD).check(build_config(recipe), 16)
    recipe.vision.config["model_type"] = "siglip_vision_model"
    with pytest.raises(UserError, match="CLS token"):
        make_method(METHOD).check(build_config(recipe), 16)
