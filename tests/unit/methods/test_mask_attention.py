"""Mask attention: who sees whom, and five rows worked out by hand."""

import pytest
import torch

from proxyv.errors import UserError
from proxyv.methods.mask_attention import MaskedLayer, MaskPlan, without_each_other
from proxyv.model.families import FAMILIES
from proxyv.model.layout import make_layout
from tests.tiny import random_image, tiny_model
from tests.unit.methods.few_rows import LAYOUT, ROWS, few_rows_llm

METHOD = {"name": "mask_attention", "start_layer": 1}


def test_five_rows_by_hand():
    llm = few_rows_llm(MaskedLayer)
    plan = MaskPlan(without_each_other(LAYOUT)[:, None])
    # Values, the first two entries: t (1, 1), a (1, −1), b (−1, −1), n (1, 1), u (−1, 1); both query heads take the
    # one value head. The FFN adds one.
    expected = [
        [3, 3, 3, 3],  # t + (1, 1, 1, 1) + 1
        [3, 0, 3, 2],  # a + (1, 0, 1, 0) + 1: the mean of t and a
        [0, 0, 2, 2],  # b + (0, 0, 0, 0) + 1: the mean of t and b; not a
        [2.5, 2, 0.5, 2],  # n + (0.5, 0, 0.5, 0) + 1: the mean of t, a, b, n
        [0.2, 2.2, 2.2, 0.2],  # u + (0.2, 0.2, 0.2, 0.2) + 1: the mean of all
    ]
    tables = llm.model.rotary_emb(ROWS, LAYOUT.position_ids)
    with torch.no_grad():
        found = llm.model.layers[0](ROWS, position_embeddings=tables, vision_plan=plan)
    torch.testing.assert_close(found[0], torch.tensor(expected))


@pytest.mark.parametrize("positions", ["natural", "authors"])
def test_who_sees_whom(positions):
    """Sample 0: text, two crops of two vision tokens with their newlines, text. Sample 1: padding, text, one crop."""
    is_image = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1]]).bool()
    mask = torch.tensor([[1] * 8, [0, 0, 0, 1, 1, 1, 1, 1]])
    seen = without_each_other(make_layout(is_image, mask, [2, 1], 2, positions)).int()
    early = int(positions == "authors")  # then the last newline stands where the first does, and they see each other
    assert seen[0].tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0, 0],  # not the vision token before it
        [1, 1, 1, 1, 0, 0, early, 0],
        [1, 0, 0, 1, 1, 0, early, 0],  # text and newline, no vision token but itself
        [1, 0, 0, 1, 0, 1, early, 0],
        [1, 1, 1, 1, 1 - early, 1 - early, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert seen[1, 6].tolist() == [0, 0, 0, 1, 1, 0, 1, 0]
    assert seen[1, 0].all()  # padding: any finite result will do


@pytest.mark.parametrize("family", FAMILIES)
def test_only_layers_from_the_start_are_masked(family):
    """A mask in the last layer alone changes vision tokens, and no text; one from layer 1 on changes both."""
    full, processor = tiny_model(family)
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    states = {}
    for name, model in {
        "full": full,
        "last": tiny_model(family, {**METHOD, "start_layer": 2})[0],
        "half": tiny_model(family, METHOD)[0],
    }.items():
        model.load_state_dict(full.state_dict())  # training-free: no parameter is added
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True, use_cache=True)
        states[name] = output.hidden_states
        rows = inputs["input_ids"].shape[1]
        assert {layer.get_seq_length() for layer in output.past_key_values.layers} == {rows}
    vision = inputs["input_ids"][0] == processor.image_token_id
    vision[vision.nonzero()[16::17]] = False
    torch.testing.assert_close(states["last"][-1][0, ~vision], states["full"][-1][0, ~vision])
    assert not torch.allclose(states["last"][-1][0, vision], states["full"][-1][0, vision])
    torch.testing.assert_close(states["half"][1], states["full"][1])
    torch.testing.assert_close(states["half"][2][0, ~vision], states["full"][2][0, ~vision])
    assert not torch.allclose(states["half"][2][0, vision], states["full"][2][0, vision])
    assert not torch.allclose(states["half"][-1][0, -1], states["full"][-1][0, -1])


def test_a_back_end_without_masks_is_refused():
    model, processor = tiny_model("llama", METHOD)
    model.language_model.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="'flex_attention' cannot take mask_attention's dense mask; use sdpa or eager"):
        model(**processor(text=["<image>A"], images=[[random_image()]]))
