"""Which rows are queries, and the way back, where crops have different numbers of vision tokens; also in a model."""

import pytest
import torch

from proxyv.methods import make_method
from proxyv.methods.shared.text_queries import make_text_query_plan
from proxyv.model.layout import make_layout
from proxyv.model.method import VisionTokens
from tests.tiny import random_image, tiny_model

METHODS = [
    {"name": "mask_attention", "start_layer": 1},
    {"name": "skip_attention", "start_layer": 1},
    {"name": "light_mlp", "start_layer": 1, "hidden_ratio": 2},
]
every_method = pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["name"])


class Positions(torch.nn.Module):
    """A stand-in for rotary tables that shows the positions."""

    def forward(self, like, position_ids):
        return position_ids[..., None].to(like.dtype), position_ids[..., None].to(like.dtype)


def uneven():
    """Two samples of one text row, one crop and one text row; of three vision tokens, the first sample's crop keeps
    one and the other's two, and one row stands behind each image:

        -  t  v  n  e  u        row numbers of the sample: 1, 2, 3, 4, 5 (0 is padding)
        t  v  v  n  e  u        0, 1, 2, 3, 4, 5
    """
    made = make_layout(torch.tensor([[0, 1, 1, 1, 1, 0]] * 2).bool(), None, [1, 1], 3)
    return made.resized(2, torch.tensor([1, 2]), extra=1)[0]


def plan_of(layout):
    return make_text_query_plan(layout, Positions(), "sdpa", torch.zeros(1))


def test_text_newlines_and_rows_behind_an_image_are_queries():
    text = plan_of(uneven()).text
    assert text.index.tolist() == [[1, 3, 4, 5], [6, 9, 10, 11]]
    assert text.cos[..., 0].tolist() == [[0, 2, 3, 4], [0, 3, 4, 5]]  # positions leave out the padding
    assert text.mask[0, 0].int().tolist() == [
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1],
    ]
    assert text.mask[1, 0, 1].int().tolist() == [1, 1, 1, 1, 0, 0]


def test_an_absent_vision_token_leaves_the_newline_alone():
    text = plan_of(uneven()).text
    rows = torch.arange(12.0).view(2, 6, 1)
    vision = text.gather_vision(rows)
    assert vision[..., 0].tolist() == [[2, 3], [7, 8]]  # row 3 is the newline, where a token is absent
    back = text.scatter(-vision, text.gather(rows))
    assert back[..., 0].tolist() == [[0, 1, -2, 3, 4, 5], [6, -7, -8, 9, 10, 11]]


def test_samples_with_fewer_query_rows_are_padded_behind():
    """The second sample is text only, five rows of it; its padding slot sees everything, which nobody reads."""
    is_image = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [0] * 7]).bool()
    mask = torch.tensor([[1] * 7, [0, 0, 0, 1, 1, 1, 1]])
    text = plan_of(make_layout(is_image, mask, [1], 1)).text
    assert text.index[0].tolist() == [0, 2, 3, 4, 5, 6] and text.index[1, :4].tolist() == [10, 11, 12, 13]
    assert text.mask[1, 0, 4:].all()
    rows = torch.arange(1.0, 15.0).view(2, 7, 1)
    back = text.scatter(text.gather_vision(rows), text.gather(rows))
    assert back[..., 0].tolist() == [[1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 11, 12, 13, 14]]


def keeping_fewer(method):
    """The same method, but before the LLM the crops of an image keep 1, 2, 3, 1, … vision tokens, and one row that
    adds up the image's first vision tokens stands behind it."""

    class Fewer(type(method)):
        name = ""

        def merge(self, model, vision, prompt):
            layout = prompt.layout
            first = vision.values[:, 0]
            extra = first.new_zeros(len(layout.crops_of_image), first.shape[1])
            extra = extra.index_add(0, layout.image_of_crop, first)[:, None]
            return VisionTokens(vision.values[:, :3], 1 + layout.crop_in_image % 3, extra)

    return Fewer(**vars(method))


@every_method
def test_crops_of_different_numbers_of_vision_tokens(fields):
    """A padded batch equals the samples alone, and decoding behind the cache one pass."""
    model, processor = tiny_model("llama", fields)
    model.method = keeping_fewer(make_method(fields))
    texts, images = (
        ["A <image> B", "C", "<image>A <image>"],
        [[random_image(60, 40)], [], [random_image(40, 40), random_image(90, 30)]],
    )
    inputs = processor(text=texts, images=images)
    alone = [processor(text=[text], images=[own]) for text, own in zip(texts, images, strict=True)]
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
        torch.testing.assert_close(logits, torch.cat([model(**one).logits[:, -1] for one in alone]))
        token = torch.tensor(processor.tokenizer("D")["input_ids"]).expand(3, 1)
        ids, mask = torch.cat([inputs["input_ids"], token], 1), torch.cat([inputs["attention_mask"], token * 0 + 1], 1)
        whole = model(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits[:, -1]
        cache = model(**inputs, use_cache=True).past_key_values
        step = model(token, mask, mask.sum(1, keepdim=True) - 1, cache).logits[:, -1]
    torch.testing.assert_close(step, whole)


@pytest.mark.parametrize("fields", METHODS[1:], ids=lambda fields: fields["name"])
def test_back_ends_that_take_no_mask_leave_these_rows_to_sdpa(fields):
    model, processor = tiny_model("llama", {**fields, "start_layer": 0})
    inputs = processor(text=["A <image> B", "value of C"], images=[[random_image()], []])
    with torch.no_grad():
        expected = model(**inputs).logits
        model.language_model.config._attn_implementation = "flash_attention_2"
        torch.testing.assert_close(model(**inputs).logits, expected)
