"""FLOPs against closed formulas and the published table; times and memory on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proxyv.config import LLMSpec, load_recipe, save_recipe
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.model.build import build_model
from proxyv.model.families import FAMILIES
from proxyv.profiling import bench_recipe, profile_recipe
from proxyv.profiling.bench import median_and_iqr, paired_ratio
from proxyv.profiling.memory import LiveTensors, peak_memory
from proxyv.profiling.prefill import run_prefill
from proxyv.profiling.sample import make_inputs
from tests.contract.family_fields import fields
from tests.profiled import GRID, profiled_recipe

RECIPES = CHECKOUT / "configs" / "recipes"


# ── closed formulas: matrix products only, 2 FLOPs a multiply-add, causal attention counted as full ──────────────


def layer_flops(llm: dict[str, Any], queries: int, keys: int) -> int:
    """One decoder layer whose FFN runs on the query rows."""
    d, heads, groups = llm["hidden_size"], llm["num_attention_heads"], llm["num_key_value_heads"]
    head = d // heads
    query_and_output = 2 * queries * d * heads * head
    key_and_value = 2 * keys * d * groups * head
    scores_and_values = 2 * queries * keys * heads * head
    return 2 * (query_and_output + key_and_value + scores_and_values + 3 * queries * d * llm["intermediate_size"])


def full_decoder_flops(llm: dict[str, Any], rows: int) -> int:
    return llm["num_hidden_layers"] * layer_flops(llm, rows, rows)


def proxy_decoder_flops(llm: dict[str, Any], start: int, vision: int, proxies: int, others: int) -> int:
    """ProxyV: whole layers before `start`; then proxies and the other rows ask, and the proxies guide the update of
    the vision rows. In the last layer nothing reads proxies or vision rows any more: only the others ask, and
    nothing is updated."""
    d, m = llm["hidden_size"], llm["hidden_size"] // 4
    rows, last = vision + others, llm["num_hidden_layers"] - 1
    update = 2 * (vision * d * m + proxies * d * m + vision * (2 * m * m + m * d))
    middle = layer_flops(llm, proxies + others, rows + proxies) + update
    return start * layer_flops(llm, rows, rows) + (last - start) * middle + layer_flops(llm, others, rows)


def tower_flops(vision: dict[str, Any], crops: int) -> int:
    """CLIP: patch convolution, then every encoder layer on the patches and CLS."""
    d, rows = vision["hidden_size"], (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    layer = 4 * rows * d * d + 2 * rows * rows * d + 2 * rows * d * vision["intermediate_size"]
    patches = (rows - 1) * d * 3 * vision["patch_size"] ** 2
    return 2 * crops * (patches + vision["num_hidden_layers"] * layer)


def test_vicuna_7b_counts_equal_the_formulas() -> None:
    recipe = load_recipe(RECIPES / "vicuna-7b-proxyv-l12.yaml")
    profile = profile_recipe(recipe, crops=5, text_tokens=50, compare="full")
    llm = recipe.llm.config
    rows = 5 * (576 + 1) + 50
    assert profile["compared"]["decoder_flops"] == full_decoder_flops(llm, rows)
    assert profile["decoder_flops"] == proxy_decoder_flops(llm, 12, vision=5 * 576, proxies=5 * 36, others=5 + 50)


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("crops", [1, 3])
def test_every_part_equals_its_formula(start: int, crops: int) -> None:
    recipe = profiled_recipe(name="proxyv", start_layer=start, downsample=2)
    profile = profile_recipe(recipe, crops=crops, text_tokens=7)
    llm, tower = recipe.llm.config, recipe.vision.config
    vision = crops * GRID**2
    d, width = llm["hidden_size"], tower["hidden_size"]
    expected = {
        "decoder_flops": proxy_decoder_flops(llm, start, vision, proxies=crops * 4, others=crops + 7),
        "tower_flops": tower_flops(tower, crops),
        "projector_flops": 2 * vision * (width * d + d * d),
        "head_flops": 2 * d * llm["vocab_size"],
    }
    assert {part: profile[part] for part in expected} == expected
    # Some releases make the rotary tables by a small product outside the layers.
    assert 0 <= profile["other_flops"] < 1e-2 * profile["total_flops"]
    assert profile["total_flops"] == sum(expected.values()) + profile["other_flops"]
    assert (profile["crops"], profile["vision_tokens"], profile["text_tokens"]) == (crops, vision, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted(family: str) -> None:
    """The same matrix products in each; where one projection is fused, it also makes the queries that nobody reads."""
    recipe = profiled_recipe()
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    size = {"head_dim": 16} if "head_dim" in fields(family) else {}
    recipe.llm.config.update(ids, model_type=family, **size)
    profile = profile_recipe(recipe, crops=3, text_tokens=7, compare="full")
    vision, others, llm = 3 * GRID**2, 3 + 7, recipe.llm.config
    assert profile["compared"]["decoder_flops"] == full_decoder_flops(llm, vision + others)
    unread = 3 * 2 * vision * llm["hidden_size"] ** 2 if family == "phi3" else 0  # in the three layers from the start
    expected = proxy_decoder_flops(llm, 1, vision, proxies=3 * 4, others=others)
    assert profile["decoder_flops"] == expected + unread


def test_counts_do_not_depend_on_the_attention_back_end() -> None:
    models = [build_model(replace(profiled_recipe(), attention=name), device="meta") for name in ("eager", "sdpa")]
    eager, sdpa = (run_prefill(model.eval(), 3, 7) for model in models)
    assert eager.flops == sdpa.flops


def test_parameters_by_group() -> None:
    profile = profile_recipe(profiled_recipe())["parameters"]
    groups = ("tower", "projector", "newline", "method", "llm")
    assert profile["total"] == sum(profile[group] for group in groups)
    assert profile["newline"] == 64
    update = 3 * 64 * 16 + 2 * 16 * 16 + 64
    assert profile["per_module"]["guided_update"] == update
    assert profile["method"] == 2 * update  # layers 1 and 2; none in the last


def test_profile_is_json_and_compares_with_a_recipe_file(tmp_path: Path) -> None:
    other = profiled_recipe(name="proxyv", start_layer=0, downsample=2)
    other.name = "earlier"
    save_recipe(other, tmp_path / "earlier.yaml")
    profile = profile_recipe(profiled_recipe(), compare=tmp_path / "earlier.yaml")
    assert json.loads(json.dumps(profile)) == profile
    assert profile["compare"] == "earlier"
    assert profile["decoder_flops_reduction"] < 0  # the other one starts a layer earlier
    assert profile["versions"]["torch"]


# ── time and memory ──────────────────────────────────────────────────────────────────────────────────────────────


def test_bench_measures_both_models() -> None:
    settings = {"crops": 3, "text_tokens": 8, "new_tokens": 3, "warmup": 1, "repeats": 3, "batch_size": 2}
    result = bench_recipe(profiled_recipe(), device="cpu", **settings)
    assert json.loads(json.dumps(result)) == result
    for measured in (result, result["compared"]):
        times = {key: measured[key]["median"] for key in ("vision_ms", "prefill_ms", "end_to_end_ms")}
        assert 0 < times["vision_ms"] < times["prefill_ms"] < times["end_to_end_ms"]
        assert 0 < measured["decode_ms_per_token"]["median"] < times["end_to_end_ms"]
        assert measured["peak_memory_mb"] > 0
    for key in ("prefill_time_ratio", "decode_time_ratio", "end_to_end_time_ratio"):
        assert 0 < result[key]["low"] <= result[key]["median"] <= result[key]["high"]
    assert result["prefill_time_reduction"] == 1 - result["prefill_time_ratio"]["median"]
    assert (result["device"], result["dtype"], result["attention"]) == ("cpu", "float32", "sdpa")
    assert {key: result[key] for key in settings} == settings
    assert result["method"]["name"] == "proxyv"
    assert result["compared"]["method"] == {"name": "full"}


def test_bench_alone_forms_no_ratio() -> None:
    result = bench_recipe(profiled_recipe(), compare=None, new_tokens=1, warmup=0, repeats=2, attention="eager")
    assert not [key for key in result if "ratio" in key or "reduction" in key or key.startswith("compare")]
    assert result["attention"] == "eager"


def test_bench_of_a_trained_model(tmp_path: Path) -> None:
    build_model(profiled_recipe()).save_pretrained(tmp_path)
    result = bench_recipe(profiled_recipe(), new_tokens=1, warmup=0, repeats=2, model_path=tmp_path)
    assert result["weights"] == str(tmp_path)
    with pytest.raises(UserError, match="model_path.*method"):
        bench_recipe(profiled_recipe(name="full"), model_path=tmp_path)
    narrower = profiled_recipe()
    narrower.llm.config["intermediate_size"] = 96
    with pytest.raises(UserError, match=r"model_path.*mlp.*shape"):
        bench_recipe(narrower, model_path=tmp_path)


def test_bfloat16_on_the_cpu_warns() -> None:
    with pytest.warns(UserWarning, match="bfloat16"):
        result = bench_recipe(profiled_recipe(), device="cpu", dtype="bfloat16", new_tokens=1, warmup=0, repeats=2)
    assert result["dtype"] == "bfloat16"


def test_paired_ratio_follows_the_pairs_not_the_drift() -> None:
    baseline = [1.0, 2.0, 4.0, 8.0]
    exact = paired_ratio([value / 2 for value in baseline], baseline)
    assert exact == {"median": 0.5, "low": 0.5, "high": 0.5}
    spread = paired_ratio([0.4, 1.0, 2.4, 4.0], baseline)
    assert spread["low"] < spread["median"] < spread["high"]
    assert median_and_iqr([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "iqr": 2.0}


def test_live_tensors_counts_what_is_alive() -> None:
    known = torch.zeros(1000)
    with LiveTensors([known]) as live:
        view = known.view(10, 100)
        first = known + 1
        second = first * 2
        del first
        third = torch.cat([second, second])
    assert view.shape == (10, 100)
    assert (live.peak, live.bytes) == (4000 * 3, 4000 * 3)  # first and second; then second and third
    del second, third
    assert live.bytes == 0


def test_peak_memory_is_weights_and_at_least_cache() -> None:
    model = build_model(profiled_recipe(name="full")).eval()
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    rows = 3 * (GRID**2 + 1) + 50
    cache = 4 * 2 * rows * 2 * 16 * 4  # layers · (key, value) · rows · heads · head size · bytes
    small = peak_memory(model, make_inputs(model, 3, 50))
    assert small > weights + cache
    assert peak_memory(model, make_inputs(model, 3, 50, batch_size=2)) - weights > 1.5 * (small - weights)


# ── wrong input ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("measure", [profile_recipe, bench_recipe])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crops": 0}, "crops: .* 0 crops .*use one of 1, 3"),
        ({"crops": 2}, "crops: .* 2 crops .*use one of 1, 3"),
        ({"text_tokens": 0}, "text_tokens: 0"),
        ({"compare": "ful"}, "compare: 'ful' is neither a method .* nor a recipe file"),
    ],
)
def test_impossible_samples(measure: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        measure(profiled_recipe(), **settings)
    assert "\n" not in str(caught.value)


def test_recipe_without_shapes() -> None:
    recipe = profiled_recipe()
    recipe.llm = LLMSpec()
    with pytest.raises(UserError, match="tiny: llm.config is empty"):
        profile_recipe(recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 1}, "repeats: 1"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"dtype": "int8"}, "dtype: 'int8'"),
        ({"device": "toaster"}, "device: 'toaster'"),
        ({"device": "meta"}, "device: 'meta'"),
        ({"attention": "flash"}, "attention: 'flash'"),
        ({"model_path": "nowhere"}, "nowhere: neither a model folder"),
    ],
)
def test_impossible_bench_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench_recipe(profiled_recipe(), **settings)
