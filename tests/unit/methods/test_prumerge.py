"""PruMerge on a tower view of nine patches, worked out by hand."""

import math

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.model.build import build_config
from proxyv.model.layout import make_layout
from proxyv.model.method import Prompt
from tests.fake_view import FakeView
from tests.tiny import random_image, tiny_model, tiny_recipe

# Attention of the CLS token to itself and to patches 0 to 8, in percent. Patches alone: the quartiles are the third
# and the seventh in order, 3 and 7, so that outliers lie above 7 + 1.5 · 4 = 13.
TWO_OUTLIERS = [2, 1, 2, 3, 4, 5, 6, 7, 40, 30]
ONE_OUTLIER = [4, 1, 2, 3, 4, 5, 6, 7, 8, 60]
# Which keys are alike; so large that the attention's share in a key does not count. Patch 7 is most like patch 0 and
# patch 8 most like patch 7 (cosines 0.995 and 0.6; patches 0 and 8: 0.52); the rest are at right angles.
ALIKE = {0: (1e3, -1e2, 0), 7: (1e3, 0, 0), 8: (6e2, 8e2, 0)}


def view(*crops):
    """Features are 1 to 9, of width 1. Queries and keys of width 4 are scaled by 1/2, so the query is (2, 0, 0, 0)."""
    keys = [[[math.log(a), *ALIKE.get(i - 1, (0, 0, 1e3))] for i, a in enumerate(crop)] for crop in crops]
    return FakeView([[[float(i)] for i in range(10)]] * len(crops), keys, [[2.0, 0, 0, 0]] * len(crops), block=1)


def prompt(*crops_of_image):
    ids = torch.ones(1, sum(crops_of_image) * 10 + 1)
    ids[:, -1] = 0
    return Prompt(ids, make_layout(ids == 1, None, crops_of_image, 9))


def select(crops, crops_of_image, **fields):
    method = make_method({"name": "prumerge", "neighbours": 1, **fields})
    found = method.select(None, view(*crops), prompt(*crops_of_image))
    assert found.values.shape[1] <= method.tokens_per_crop(9)
    return found.values[..., 0], found.counts


def test_images_keep_their_outliers():
    """Image 0 keeps patches 7 and 8, features 8 and 9. Patch 7 takes in patch 0: 8 + 0.01 · 1; patch 8 takes in
    patch 7: 9 + 0.40 · 8. The rest: 0.01 · 1 + 0.02 · 2 + … + 0.07 · 7 = 1.40.
    Image 1 keeps patch 8: 9 + 0.08 · 8. The rest: 1.40 + 0.08 · 8."""
    values, counts = select([TWO_OUTLIERS, ONE_OUTLIER], [1, 1])
    torch.testing.assert_close(values, torch.tensor([[8.01, 12.2, 1.4], [9.64, 2.04, 0]]))
    assert counts.tolist() == [3, 2]


def test_crops_of_an_image_share_one_count():
    """Three outliers in two crops: one patch each. In the first, patch 7; the rest is 1.40 + 0.30 · 9."""
    values, counts = select([TWO_OUTLIERS, ONE_OUTLIER], [2])
    torch.testing.assert_close(values, torch.tensor([[8.01, 4.1], [9.64, 2.04]]))
    assert counts.tolist() == [2, 2]


def test_without_outliers_one_patch_stays():
    """Patches attended to alike: the first is kept."""
    values, counts = select([[10] * 10], [1], neighbours=0)
    torch.testing.assert_close(values, torch.tensor([[1.0, 0.1 * sum(range(2, 10))]]))
    assert counts.tolist() == [2]


def test_plus_adds_evenly_spaced_patches():
    """One outlier of nine: every ⌊9 / 3⌋ = third patch but the last, so 8 and then 0, 3, 6. With two outliers the step
    is ⌊⌊9 / 2⌋ / 3⌋ = 1: all patches stay, the outliers first, and no rest is left."""
    values, counts = select([ONE_OUTLIER, TWO_OUTLIERS], [1, 1], plus=True, neighbours=0)
    rest = 0.02 * 2 + 0.03 * 3 + 0.05 * 5 + 0.06 * 6 + 0.08 * 8
    assert counts.tolist() == [5, 9]
    torch.testing.assert_close(values[0], torch.tensor([9, 1, 4, 7, rest, 0, 0, 0, 0]))
    assert values[1].tolist() == [8, 9, 1, 2, 3, 4, 5, 6, 7]


def test_a_fixed_share_keeps_the_same_count_everywhere():
    """A third of nine: the best three, 7, 8 and 6. With plus: every third patch from the middle of the first step on,
    1, 4 and 7, and the best three of the others, 8, 6 and 5."""
    values, counts = select([TWO_OUTLIERS], [1], fixed_ratio=1 / 3, neighbours=0)
    rest = sum(0.01 * i * i for i in range(1, 7))
    torch.testing.assert_close(values, torch.tensor([[8, 9, 7, rest]]))
    assert counts is None
    values, _ = select([TWO_OUTLIERS], [1], plus=True, fixed_ratio=1 / 3, neighbours=0)
    torch.testing.assert_close(values, torch.tensor([[9.0, 7, 6, 2, 5, 8, 0.01 + 0.09 + 0.16]]))


def test_everything_may_be_kept():
    values, counts = select([TWO_OUTLIERS], [1], fixed_ratio=1.0, neighbours=0)
    assert values.tolist() == [[8, 9, 7, 6, 5, 4, 3, 2, 1]] and counts is None


def test_published_counts():
    """Of 576 patches: an eighth and as many spaced ones in training; about 32 and 144 tokens where there are no
    values."""
    assert make_method({"name": "prumerge", "fixed_ratio": 0.125, "plus": True}).tokens_per_crop(576) == 144 + 1
    for plus, count in ((False, 32), (True, 144)):
        method = make_method({"name": "prumerge", "plus": plus})
        kept = method.keep(torch.empty(3, 576, device="meta"), (1, 2))
        assert kept.order.shape == (3, count - 1) and kept.counts is None


def test_every_layer_keeps_what_the_images_have_left():
    """Two images with different counts, one behind the other."""
    model, processor = tiny_model("llama", {"name": "prumerge", "neighbours": 3})
    inputs = processor(text=["A <image><image> B"], images=[[random_image(60, 40, 1), random_image(30, 90, 2)]])
    layout = model.read_prompt(inputs["input_ids"], None, inputs["crops_per_image"])
    with torch.no_grad():
        tokens = model.method.select(model, model.view(inputs["pixel_values"]), layout)
        cache = model(**inputs, use_cache=True).past_key_values
    text = int((inputs["input_ids"] != processor.image_token_id).sum())
    rows = text + int(tokens.counts.sum()) + len(tokens.counts)
    assert [layer.keys.shape[2] for layer in cache.layers] == [rows] * 3


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"fixed_ratio": 0.0}, "method.fixed_ratio: must be greater than 0, found 0.0"),
        ({"fixed_ratio": 1.5}, "method.fixed_ratio: must be at most 1, found 1.5"),
        ({"neighbours": 16}, "method.neighbours: 16 must lie between 0 and 15"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {"name": "prumerge", **fields})


def test_towers_that_do_not_fit():
    method, recipe = make_method({"name": "prumerge", "neighbours": 3}), tiny_recipe()
    recipe.vision.feature_layer = -1  # nothing comes after it
    with pytest.raises(UserError, match="vision.feature_layer: -1 .* use hidden state 0 to 2"):
        method.check(build_config(recipe), 16)
    recipe.vision.feature_layer = 0
    method.check(build_config(recipe), 16)
    recipe.vision.config["model_type"] = "siglip_vision_model"
    with pytest.raises(UserError, match="CLS token"):
        method.check(build_config(recipe), 16)
