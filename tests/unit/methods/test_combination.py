"""Two methods as one: what each of them does alone, and what does not go together."""

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.methods import describe_method, make_method
from proxyv.model.build import build_processor
from tests.tiny import random_image, tiny_model, tiny_recipe

PROXYV = {"name": "proxyv", "start_layer": 1, "downsample": 2, "hidden_ratio": 2}
PROXYV_NS = {"name": "proxyv_ns", "start_layer": 1, "queries": 3, "hidden_ratio": 2}
VISIONZIP = {"name": "visionzip", "dominant": 5, "contextual": 3}
FULL = {"name": "full"}


def combination(before_llm, inside_llm):
    return {"name": "combination", "before_llm": before_llm, "inside_llm": inside_llm}


def batch(processor):
    texts, images = (
        ["A <image> B", "value of C", "<image>C"],
        [[random_image(60, 40, 1)], [], [random_image(30, 90, 2)]],
    )
    return processor(text=texts, images=images)


def loss_of(model, processor):
    inputs = batch(processor)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    return model(**inputs, labels=labels.masked_fill(inputs["attention_mask"].cumsum(1) <= 1, -100)).loss


@pytest.mark.parametrize("alone", [VISIONZIP, PROXYV, PROXYV_NS])
def test_with_full_it_is_the_other_method(alone):
    pair = (alone, FULL) if alone is VISIONZIP else (FULL, alone)
    model, processor = tiny_model("qwen2", combination(*pair))
    other, _ = tiny_model("qwen2", alone)
    other.load_state_dict(model.state_dict())
    inputs = batch(processor)
    with torch.no_grad():
        assert torch.equal(*(m(**inputs, logits_to_keep=1).logits for m in (model, other)))
    assert model.method.modules == other.method.modules and model.method.needs == other.method.needs
    assert model.method.keeps_grid == other.method.keeps_grid


def test_rows_of_both():
    """VisionZip leaves 8 tokens a crop in every cache; PyramidDrop then keeps half of an image's in the last layer."""
    inside = {"name": "pyramiddrop", "layers": [2], "keep": [0.5]}
    model, processor = tiny_model("llama", combination(VISIONZIP, inside))
    inputs = processor(text=["A <image> B"], images=[[random_image()]])
    crops, text = int(inputs["crops_per_image"][0]), int((inputs["input_ids"] != processor.image_token_id).sum())
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    fixed = text + crops
    assert [layer.keys.shape[2] for layer in cache.layers] == [fixed + 8 * crops, fixed + 8 * crops, fixed + 4 * crops]


def test_parameters_of_the_second_are_the_methods():
    model, _ = tiny_model("llama", combination(VISIONZIP, PROXYV_NS))
    groups = {model.module_group(name) for name, _ in model.named_parameters() if "guided" in name or "proxy_" in name}
    assert groups == {"method"}


def test_the_first_limits_the_grid():
    method = combination({"name": "smaller_image", "pool": 2, "max_crops": 3}, PROXYV)
    processor = build_processor(tiny_recipe(method=method))
    assert processor(text=["<image>"], images=[[random_image(50, 150)]])["crops_per_image"].tolist() == [3]


def test_training_runs_every_pass_of_the_first():
    """The loss of M3 with ProxyV is the mean of ProxyV's on each scale."""
    scales = [4, 16]
    model, processor = tiny_model("llama", combination({"name": "m3", "scales": scales, "scale": 4}, PROXYV))
    with torch.no_grad():
        together = loss_of(model.train(), processor)
        alone = []
        for scale in scales:
            one, _ = tiny_model("llama", combination({"name": "m3", "scales": [scale], "scale": scale}, PROXYV))
            one.load_state_dict(model.state_dict())
            alone.append(loss_of(one.train(), processor))
    assert alone[0] != alone[1]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize(
    "before_llm, inside_llm, message",
    [
        (PROXYV_NS, FULL, "method.before_llm: 'proxyv_ns' acts inside the LLM"),
        (combination(VISIONZIP, FULL), PROXYV_NS, "method.before_llm: 'combination' acts inside"),
        (FULL, VISIONZIP, "method.inside_llm: 'visionzip' acts before the LLM"),
        (VISIONZIP, PROXYV, "method.inside_llm: 'proxyv' needs a grid"),
        ({"name": "visionzp"}, FULL, "unknown method.before_llm.name 'visionzp'; did you mean 'visionzip'"),
        ({**VISIONZIP, "tokens": 3}, FULL, "unknown key 'method.before_llm.tokens'"),
        ({**VISIONZIP, "dominant": 0}, FULL, "method.before_llm.dominant: must be at least 1, found 0"),
        (VISIONZIP, {**PROXYV_NS, "queries": 9}, "method.inside_llm.queries: 9 .* the 8 vision tokens"),
        (
            {"name": "m3", "scales": [1, 16], "scale": 16},
            PROXYV,
            "inside_llm.downsample: 2 does not .* 'm3' leaves 1 tok",
        ),
    ],
)
def test_what_does_not_go_together(before_llm, inside_llm, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", combination(before_llm, inside_llm))


def test_the_default_is_the_published_pair_with_every_field():
    method = make_method({"name": "combination"})
    assert method.before_llm == {"name": "visionzip", "dominant": 360, "contextual": 40}
    assert method.inside_llm["name"] == "proxyv_ns" and method.inside_llm["queries"] == 36
    assert make_method(describe_method(method)) == method
    changed = make_method(combination(FULL, {"name": "proxyv_ns", "queries": 25}))
    assert changed.before_llm == FULL and changed.inside_llm["queries"] == 25


def test_a_recipe_may_change_one_field_or_one_method(tmp_path):
    part = tmp_path / "part.yaml"
    part.write_text("method: {name: combination, before_llm: {name: visionzip, dominant: 7}, inside_llm: {name: full}}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("parts: [part.yaml]\nmethod: {before_llm: {contextual: 2}}")
    before = load_recipe(recipe).method["before_llm"]
    assert before == {"name": "visionzip", "dominant": 7, "contextual": 2}
    changed = load_recipe(recipe, ["method.before_llm.name=random"]).method
    assert changed == {"name": "combination", "before_llm": {"name": "random"}, "inside_llm": {"name": "full"}}
    assert load_recipe(recipe, ["method.name=full"]).method == {"name": "full"}
