"""M3: average pooling at nested scales; training covers all of them."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods.m3 import M3
from proxyv.model.method import VisionTokens
from tests.tiny import tiny_model
from tests.unit.methods.ragged import ragged_batch

FIELDS = {"name": "m3", "scales": [1, 4, 16], "scale": 4}


def labelled(processor):
    inputs = ragged_batch(processor)
    ids = inputs["input_ids"]
    return {**inputs, "labels": ids.masked_fill((ids == processor.image_token_id) | (ids == 0), -100)}


def test_pooling_by_hand():
    """A crop of 4 × 4 tokens that count 0 … 15 in raster order; the second crop holds the same numbers times ten."""
    crop = torch.arange(16.0).view(1, 16, 1)
    vision = VisionTokens(torch.cat([crop, 10 * crop]))

    def pooled(scale):
        return M3(scales=(scale,), scale=scale).merge(None, vision, None).values[..., 0].tolist()

    # Blocks of 2 × 2: (0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4, (8 + 9 + 12 + 13) / 4, (10 + 11 + 14 + 15) / 4.
    assert pooled(4) == [[2.5, 4.5, 10.5, 12.5], [25.0, 45.0, 105.0, 125.0]]
    assert pooled(1) == [[7.5], [75.0]]
    assert pooled(16)[0] == list(range(16))


def test_training_loss_is_the_mean_over_scales():
    model, processor = tiny_model("llama", FIELDS)
    inputs = labelled(processor)
    with torch.no_grad():
        trained = model.train()(**inputs).loss
        model.eval()
        losses = []
        for method in model.method.training_passes():
            model.method = method
            losses.append(model(**inputs).loss)
    assert [method.scale for method in M3().training_passes()] == [1, 9, 36, 144, 576]
    assert len({round(float(loss), 6) for loss in losses}) == 3
    torch.testing.assert_close(trained, torch.stack(losses).mean())


def test_a_text_only_batch_trains_as_with_one_pass():
    model, processor = tiny_model("llama", FIELDS)
    ids = processor(text=["value of C"])["input_ids"]
    model.train()
    loss = model(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(loss, model.language_model(input_ids=ids, labels=ids).loss)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.projector.parameters())


def test_a_text_only_batch_calls_the_projector_once_a_pass():
    """As a batch with images does: ranks of a sharded run must take the same steps."""
    model, processor = tiny_model("llama", FIELDS)
    calls = []
    model.projector.register_forward_hook(lambda *_: calls.append(1))
    model.train()(**labelled(processor))
    with_images = len(calls)
    ids = processor(text=["value of C"])["input_ids"]
    model(input_ids=ids, labels=ids)
    assert with_images == 3 and len(calls) == 6


@pytest.mark.parametrize("scale", [1, 4, 16])
def test_every_layers_cache_holds_the_scale(scale):
    model, processor = tiny_model("qwen2", {**FIELDS, "scale": scale})
    inputs = ragged_batch(processor)
    crops = inputs["crops_per_image"].tolist()
    text = ((inputs["input_ids"] != processor.image_token_id) & (inputs["attention_mask"] == 1)).sum(1).tolist()
    rows = [text[0] + crops[0] * (scale + 1), text[1], text[2] + (crops[1] + crops[2]) * (scale + 1)]
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert {layer.keys.shape[2] for layer in cache.layers} == {max(rows)}
    assert model.method.tokens_per_crop(16) == scale


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"scales": [1, 9], "scale": 1}, "method.scales: 9 "),  # 3 does not divide 4
        ({"scales": [1, 8], "scale": 1}, "method.scales: 8 "),  # no square
        ({"scales": [4, 4], "scale": 4}, "method.scales"),
        ({"scales": [], "scale": 4}, "method.scales"),
        ({"scales": [1, 4], "scale": 16}, "method.scale: 16"),
    ],
)
def test_scales_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {"name": "m3", **fields})
