"""The controls: random, uniform and smaller-image, on a tower view of 16 numbered patches."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.model.build import build_processor, switch_method
from proxyv.model.layout import make_layout
from proxyv.model.method import Prompt
from tests.fake_view import FakeView
from tests.tiny import random_image, tiny_model, tiny_recipe

PATCHES = list(range(16))  # of width 1; the CLS token is −1


def view(crops):
    return FakeView([[[-1], *([p] for p in PATCHES)]] * crops, [[[0]]] * crops, [[0]] * crops)


def prompt(*crops_per_image):
    rows = sum(crops_per_image) * 17
    ids = torch.ones(1, rows + 1)
    ids[:, -1] = 0
    return Prompt(ids, make_layout(ids == 1, None, crops_per_image, 16))


def chosen(method, crops_per_image, training=False):
    """Which patches of each crop are left."""
    model = torch.nn.Module().train(training)
    found = make_method(method).select(model, view(sum(crops_per_image)), prompt(*crops_per_image))
    return found.values[..., 0].int().tolist()


def test_uniform_takes_the_middle_of_each_stretch():
    """5 of 16: the stretches are 3.2 long, their middles 1.6, 4.8, 8, 11.2, 14.4."""
    assert chosen({"name": "uniform", "tokens": 5}, [2]) == [[1, 4, 8, 11, 14]] * 2
    assert chosen({"name": "uniform", "tokens": 1}, [1]) == [[8]]
    assert chosen({"name": "uniform", "tokens": 16}, [1]) == [PATCHES]


def test_random_in_evaluation_depends_on_seed_and_crop_only():
    method = {"name": "random", "tokens": 5}
    torch.manual_seed(1)
    three = chosen(method, [3])
    torch.manual_seed(2)
    assert chosen(method, [1, 3, 2]) == [three[0], *three, *three[:2]]
    assert all(sorted(set(crop)) == crop and len(crop) == 5 for crop in three)
    assert len({tuple(crop) for crop in three}) == 3
    assert chosen({**method, "seed": 1}, [3]) != three


def test_random_in_training_draws_anew_from_torch():
    method = {"name": "random", "tokens": 5}
    torch.manual_seed(1)
    first, second = chosen(method, [3], training=True), chosen(method, [3], training=True)
    torch.manual_seed(1)
    assert chosen(method, [3], training=True) == first != second
    assert all(sorted(set(crop)) == crop for crop in first)


def test_smaller_image_averages_blocks():
    """Of the rows 0–3, 4–7, 8–11, 12–15, the upper left block is 0, 1, 4, 5."""
    found = make_method({"name": "smaller_image", "pool": 2}).select(None, view(1), None)
    assert found.values[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("max_crops, crops", [(None, 4), (5, 4), (4, 4), (3, 3), (2, 1), (1, 1)])
def test_smaller_image_limits_the_crops_of_a_image(max_crops, crops):
    """A tall image takes 1 + 3 crops of the paper's grid, 1 + 2 where that is too many, else one: all of it."""
    processor = build_processor(tiny_recipe(method={"name": "smaller_image", "max_crops": max_crops}))
    image = random_image(50, 150)
    inputs = processor(text=["<image>"], images=[[image]])
    assert inputs["crops_per_image"].tolist() == [crops]
    whole = build_processor(tiny_recipe()).image_processor([image])["pixel_values"][0]
    assert torch.equal(inputs["pixel_values"][0], whole)


def test_a_limited_processor_is_saved_and_loaded(tmp_path):
    processor = build_processor(tiny_recipe(method={"name": "smaller_image", "max_crops": 1}))
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert again.image_processor.grid == []
    assert again(text=["<image>"], images=[[random_image()]])["crops_per_image"].tolist() == [1]


def test_switched_on_for_a_trained_model_it_limits_its_processor():
    model, processor = tiny_model("llama", {"name": "full"})
    switch_method(model, processor, {"name": "smaller_image", "max_crops": 3})
    assert processor.image_processor.grid == [[1, 2], [2, 1]]
    inputs = processor(text=["A <image> B"], images=[[random_image(50, 150)]])
    assert inputs["crops_per_image"].tolist() == [3]
    model(**inputs)


@pytest.mark.parametrize(
    "method, tokens",
    [({"name": "random", "tokens": 5}, 5), ({"name": "uniform", "tokens": 7}, 7), ({"name": "smaller_image"}, 4)],
)
def test_every_layer_keeps_as_many_rows_as_the_fields_say(method, tokens):
    model, processor = tiny_model("llama", method)
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    crops, text = int(inputs["crops_per_image"][0]), int((inputs["input_ids"] != processor.image_token_id).sum())
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert [layer.keys.shape[2] for layer in cache.layers] == [text + crops * (tokens + 1)] * 3


@pytest.mark.parametrize(
    "method, message",
    [
        ({"name": "random", "tokens": 0}, "method.tokens: must be at least 1, found 0"),
        ({"name": "uniform", "tokens": 17}, "method.tokens: 17 must lie between 1 and the 16"),
        ({"name": "smaller_image", "pool": 3}, "method.pool: 3 does not divide the 4 × 4"),
        ({"name": "smaller_image", "max_crops": 0}, "method.max_crops: must be at least 1, found 0"),
    ],
)
def test_fields_that_do_not_fit(method, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", method)
