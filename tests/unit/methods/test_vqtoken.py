"""VQToken's image port: K-means that repeats itself, codes in an image's first crop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from proxyv.errors import UserError
from proxyv.methods.vqtoken import by_image, cluster, means
from proxyv.model.method import VisionTokens
from tests.tiny import random_image, tiny_model
from tests.unit.methods.ragged import ragged_batch

FIELDS = {"name": "vqtoken", "codes": 4, "iterations": 3, "inner_size": 16, "heads": 2}


def at_angles(*degrees):
    angles = torch.deg2rad(torch.tensor([degrees], dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], -1)


def test_clustering_by_hand():
    """Directions 0°, 90°, 10°, 100°: code 0 starts at the first, code 1 at the farthest from it, 100°."""
    units = at_angles(0, 90, 10, 100)
    real = torch.ones(1, 4, dtype=torch.bool)
    ids, centres = cluster(units, real, codes=2, iterations=5)
    assert ids.tolist() == [[0, 1, 0, 1]]
    # The centres that chose lie half-way, at 5° and 95°; the means of unit vectors that are 10° apart are shorter:
    # ((1 + cos 10°) / 2, sin 10° / 2) and (−sin 10° / 2, (1 + cos 10°) / 2).
    torch.testing.assert_close(centres, at_angles(5, 95))
    expected = torch.tensor([[[0.99240, 0.08682], [-0.08682, 0.99240]]])
    torch.testing.assert_close(means(units, real, ids, centres), expected, atol=1e-4, rtol=0)


def test_rounds_move_the_codes():
    """Directions 0°, −40°, −40°, 48°, 100°. Codes start at 0° and 100°, and 48° is nearer to 0°. That cluster's mean
    points to −10° (x = 1 + 2 · 0.766 + 0.669, y = −2 · 0.643 + 0.743), so 48° goes over to 100°; then nothing moves."""
    units = at_angles(0, -40, -40, 48, 100)
    real = torch.ones(1, 5, dtype=torch.bool)
    assert cluster(units, real, 2, iterations=0)[0].tolist() == [[0, 0, 0, 0, 1]]
    assert cluster(units, real, 2, iterations=1)[0].tolist() == [[0, 0, 0, 1, 1]]
    ids, centres = cluster(units, real, 2, iterations=9)
    assert ids.tolist() == [[0, 0, 0, 1, 1]]
    # (1 + 2 · 0.766, −2 · 0.643) points to −26.9°, and half-way between 48° and 100° is 74°.
    torch.testing.assert_close(centres, at_angles(-26.92, 74), atol=1e-3, rtol=0)


def test_a_code_without_tokens_stays_where_it_was():
    units = at_angles(30, 30, 30)
    real = torch.ones(1, 3, dtype=torch.bool)
    ids, centres = cluster(units, real, codes=2, iterations=3)
    assert ids.tolist() == [[0, 0, 0]]
    torch.testing.assert_close(means(units, real, ids, centres), at_angles(30, 30))


def test_padding_is_in_no_cluster():
    """Images of two crops and one, whose missing crop holds what would be the farthest tokens."""
    torch.manual_seed(0)
    values = torch.randn(3, 16, 8)
    tokens, real = by_image(values, (2, 1))
    assert real.sum(1).tolist() == [32, 16] and torch.equal(tokens[0], values[:2].flatten(0, 1))
    units = F.normalize(tokens, dim=-1)
    ids, centres = cluster(units, real, 4, 3)
    alone = units[1:, :16]
    ids_alone, centres_alone = cluster(alone, real[1:, :16], 4, 3)
    assert torch.equal(ids[1:, :16], ids_alone)
    codes = means(units, real, ids, centres)[1:]
    torch.testing.assert_close(codes, means(alone, real[1:, :16], ids_alone, centres_alone))


def test_codes_have_the_length_of_the_images_tokens():
    """Without what attention adds, an image whose tokens are all alike gives that very token, K times."""
    model, _ = tiny_model("llama", FIELDS)
    nn.init.zeros_(model.reducer.out.weight)
    nn.init.zeros_(model.reducer.out.bias)
    ids = torch.full((1, 35), model.config.image_token_id)
    ids[:, -1] = 7
    prompt = model.read_prompt(ids, None, [2])
    token = torch.randn(32)
    with torch.no_grad():
        merged = model.method.merge(model, VisionTokens(token.expand(2, 16, 32)), prompt)
    assert merged.counts.tolist() == [4, 0] and merged.values.shape == (2, 4, 32)
    torch.testing.assert_close(merged.values[0], token.expand(4, 32))


def test_codes_stand_in_the_first_crop_and_every_crop_keeps_its_newline():
    model, processor = tiny_model("qwen2", FIELDS)
    inputs = ragged_batch(processor)
    crops = inputs["crops_per_image"].tolist()
    assert max(crops) > 1
    text = ((inputs["input_ids"] != processor.image_token_id) & (inputs["attention_mask"] == 1)).sum(1).tolist()
    rows = [text[0] + 4 + crops[0], text[1], text[2] + 8 + crops[1] + crops[2]]
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert {layer.keys.shape[2] for layer in cache.layers} == {max(rows)}
    assert model.method.tokens_per_crop(16) == 4


def test_the_same_tokens_every_time():
    """In another batch, and in another order of samples."""
    model, processor = tiny_model("llama", FIELDS)
    images = [random_image(60, 40, 1), random_image(30, 90, 2), random_image(30, 30, 3)]
    with torch.no_grad():
        logits = []
        for order in ((0, 1, 2), (2, 0, 1), (1,)):
            inputs = processor(text=["A <image> B"] * len(order), images=[[images[i]] for i in order])
            logits.append(model(**inputs, logits_to_keep=1).logits[order.index(1)])
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[2], logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"codes": 17}, "method.codes: 17"),
        ({"codes": 1}, "method.codes: 1"),
        ({"iterations": -1}, "method.iterations: must be at least 0, found -1"),
        ({"heads": 3}, "method.heads: 3"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {**FIELDS, **fields})
