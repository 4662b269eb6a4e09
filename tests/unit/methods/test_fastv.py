"""FastV against Hugging Face's own attention weights and layers; its fields."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods import make_method
from tests.tiny import random_image, tiny_model


def plain_and_fast(family, **fields):
    fast, processor = tiny_model(family, {"name": "fastv", **fields})
    plain, _ = tiny_model(family)
    plain.load_state_dict(fast.state_dict())
    return plain, fast, processor


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("layer, drop, keep", [(1, 0.5, 24), (2, 0.7, 14)])  # of 3 crops · 16; 48 · 0.3 = 14.4
def test_drops_what_the_layer_before_attends_to_least(family, layer, drop, keep):
    """Rank by the weights that eager attention returns, gather once, go on at the original positions."""
    plain, fast, processor = plain_and_fast(family, layer=layer, drop=drop)
    inputs = processor(text=["A <image> B"], images=[[random_image(60, 40)]])
    placeholders = (inputs["input_ids"][0] == processor.image_token_id).nonzero().flatten()
    vision = placeholders[torch.arange(len(placeholders)) % 17 < 16]  # every 17th is a newline
    assert len(vision) == 48
    with torch.no_grad():
        plain.set_attn_implementation("eager")
        seen = plain(**inputs, output_attentions=True, output_hidden_states=True, use_cache=False)
        weights = seen.attentions[layer - 1][0].mean(0)[-1]
        dropped = vision[weights[vision].argsort()[: len(vision) - keep]]
        rows = torch.tensor([row for row in range(inputs["input_ids"].shape[1]) if row not in dropped])

        llm = plain.language_model.model
        hidden = seen.hidden_states[layer][:, rows]
        tables = llm.rotary_emb(hidden, rows[None])
        plain.set_attn_implementation("sdpa")
        for behind in llm.layers[layer:]:
            hidden = behind(hidden, position_embeddings=tables, attention_mask=None)
        expected = plain.language_model.lm_head(llm.norm(hidden))

        output = fast(**inputs, use_cache=True)
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)
    length = inputs["input_ids"].shape[1]
    kept = [length] * layer + [length - 48 + keep] * (3 - layer)
    assert [cached.keys.shape[2] for cached in output.past_key_values.layers] == kept
    assert output.past_key_values.layers[layer].positions(2).tolist() == [[length, length + 1]]


def test_each_image_keeps_its_own_share():
    fast, processor = tiny_model("llama", {"name": "fastv", "layer": 1})
    plans = []
    hook = fast.language_model.model.layers[2].register_forward_pre_hook(
        lambda _, args, kwargs: plans.append(kwargs["vision_plan"]), with_kwargs=True
    )
    with torch.no_grad():
        fast(**processor(text=["<image><image>A", "B"], images=[[random_image(60, 40), random_image(30, 90, 2)], []]))
    hook.remove()
    first, rows = plans[0].first, plans[0].rows[1]
    assert rows.counts == tuple(count // 2 for count in first.counts) and len(rows.counts) == 2
    assert rows.other_counts == first.other_counts


def test_counts_round():
    method = make_method({"name": "fastv", "drop": 0.7})
    (share,) = method.schedule(32).values()
    assert method.count(2880, share) == 864 and method.count(16, share) == 5  # 4.8


@pytest.mark.parametrize("fields, field", [({"layer": 0}, "layer"), ({"layer": 3}, "layer"), ({"drop": 1.0}, "drop")])
def test_fields_that_do_not_fit(fields, field):
    model, _ = tiny_model()
    with pytest.raises(UserError, match=rf"method\.{field}"):
        make_method({"name": "fastv", "layer": 1, **fields}).check(model.config, 16)
