"""VideoLLM-MoD: one layer on five rows, worked out by hand; what its layers keep; its fields."""

import pytest
import torch
from torch import nn

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.methods.shared.row_subset import all_rows
from proxyv.methods.videollm_mod import BoundedRouter, RoutedLayer, RoutedPlan, Router
from tests.tiny import random_image, tiny_model
from tests.unit.methods.few_rows import LAYOUT, ROWS, few_rows_llm


def test_a_layer_worked_out():
    """Rows T, a, b, N, U; the router reads half of the first entry: ½ for a = (1, −1, 1, 1), −½ for b. Half of the
    crop's tokens go through: a. All that a row sees weighs the same, values are a row's first two entries, for both
    heads; the FFN adds 1.

    T sees itself:          (1, 1) → update (2, 2, 2, 2)
    a sees T and a:         mean (1, 0) → (2, 1, 2, 1), times ½
    b skips the layer and stays
    N sees T, a and N:      mean (1, ⅓) → (2, 4/3, 2, 4/3)
    U sees T, a, N and U:   mean (½, ½) → (1½, 1½, 1½, 1½)
    """
    llm = few_rows_llm(RoutedLayer)
    layer = llm.model.layers[0]
    layer.router = Router(4, 1, bias=False)
    layer.router.weight = nn.Parameter(torch.tensor([[0.5, 0, 0, 0]]))
    plan = RoutedPlan(
        llm=llm,
        embeddings=ROWS,
        first=all_rows(LAYOUT, ROWS.device, per_crop=True),
        prompt_length=5,
        keep=0.5,
        is_vision=LAYOUT.is_vision,
    )
    third = 1 / 3
    expected = [
        [3, 3, 3, 3],
        [2, -0.5, 2, 1.5],
        [-1, -1, 1, 1],
        [3, 2 + third, 1, 2 + third],
        [0.5, 2.5, 2.5, 0.5],
    ]
    output = layer(ROWS, vision_plan=plan)
    torch.testing.assert_close(output[0], torch.tensor(expected))
    assert plan.through[0].index.tolist() == [[0, 1, 3, 4]]
    output[0, 1].sum().backward()  # the update of a, 6 in all, times a = (1, −1, 1, 1)
    torch.testing.assert_close(layer.router.weight.grad, torch.tensor([[6.0, -6, 6, 6]]))


@pytest.mark.parametrize("layers, chosen", [("interleaved", [1]), ("all_deep", [2]), ("all", [0, 1, 2])])
def test_chosen_layers_keep_a_share_of_each_crop(layers, chosen):
    """16 · 0.3 = 4.8, so 5 of each crop. Other layers keep every row, and all go on at the prompt's length."""
    model, processor = tiny_model("qwen2", {"name": "videollm_mod", "keep": 0.3, "layers": layers})
    plans = []
    model.language_model.model.layers[chosen[0]].register_forward_pre_hook(
        lambda _, args, kwargs: plans.append(kwargs["vision_plan"]), with_kwargs=True
    )
    inputs = processor(text=["A <image> B"], images=[[random_image(60, 40)]])  # three crops
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
    assert output.logits.shape[1] == length
    caches = output.past_key_values.layers
    assert [cached.keys.shape[2] for cached in caches] == [length - 3 * 11 if i in chosen else length for i in range(3)]
    rows = plans[0].through[chosen[0]]
    assert rows.counts == (5, 5, 5) and (rows.index.diff() > 0).all()
    first = inputs["input_ids"][0].eq(processor.image_token_id).int().argmax()
    crops = (rows.index[0, rows.vision] - first) // 17  # a crop takes 17 rows
    assert torch.equal(crops, torch.arange(3)[:, None].expand(3, 5))
    assert caches[chosen[0]].positions(1).tolist() == [[length]]


def test_published_layers():
    """Of 32: every second one from layer 1 on, and with "deep" none before layer 2; the first counts as layer 0."""
    of = {
        name: make_method({"name": "videollm_mod", "layers": name}).chosen(32)
        for name in ("all", "interleaved", "all_deep", "interleaved_deep")
    }
    assert [len(chosen) for chosen in of.values()] == [32, 16, 30, 15]
    assert set(of["interleaved_deep"]) == set(of["interleaved"]) & set(of["all_deep"])


def test_a_bounded_router_begins_at_one():
    router = BoundedRouter(4, 1, bias=False)
    assert router(ROWS).eq(1).all()
    nn.init.constant_(router.weight, 100.0)
    assert router(ROWS).min() >= 0.8 and router(ROWS).max() <= 1.2


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"layers": "interleaved_deep"}, "layers"),  # the tiny model has no layer 3
        ({"layers": "deep"}, "layers"),
        ({"weighting": "tanh"}, "weighting"),
    ],
)
def test_fields_that_do_not_fit(fields, field):
    model, _ = tiny_model()
    with pytest.raises(UserError, match=rf"method\.{field}"):
        make_method({"name": "videollm_mod", **fields}).check(model.config, 16)
