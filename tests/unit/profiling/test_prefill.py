"""Selection cost, vision tokens by layer, cache and memory of a prefill on shapes alone, against hand-worked figures.

The model of test_profiling.py: four layers of width 64 (4 heads of 16, 2 of them for keys and values), a tower of
width 32 over crops of 4 × 4 patches and CLS; 3 crops and 7 text tokens are 3 · 17 + 7 = 58 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.files import CHECKOUT
from proxyv.model.build import build_model
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.vision import TowerView
from proxyv.profiling import profile_recipe
from proxyv.profiling import sample as sample_module
from proxyv.profiling.memory import LiveTensors
from proxyv.profiling.prefill import DTYPE, run_prefill, shapes
from proxyv.profiling.sample import make_inputs, method_crops
from tests.profiled import profiled_recipe

PYRAMID = {"name": "pyramiddrop", "layers": [1, 3], "keep": [0.5, 0.25]}


def test_tokens_by_layer_and_cache_bytes() -> None:
    """48 vision tokens; half stay from layer 1 on, a quarter in layer 3; 3 newlines and 7 text tokens always do."""
    profile = profile_recipe(profiled_recipe(**PYRAMID), text_tokens=7, compare="full")
    assert profile["vision_tokens_by_layer"] == [48, 24, 24, 12]
    assert profile["mean_vision_tokens"] == 27
    rows = 4 * 10 + 108
    assert profile["cache_bytes"] == rows * 2 * 2 * 16 * 2  # keys and values, 2 heads of 16, 2 bytes
    assert profile["dtype"] == "bfloat16"
    assert profile["compared"]["vision_tokens_by_layer"] == [48] * 4
    assert profile["compared"]["cache_bytes"] == 4 * 58 * 2 * 2 * 16 * 2


def test_learned_tokens_stand_for_vision_tokens_and_newlines() -> None:
    """Text behind the image reads 2 learned tokens in place of 48 vision tokens and 3 newlines."""
    profile = profile_recipe(profiled_recipe(name="voco_llama", tokens=2), text_tokens=7)
    assert profile["vision_tokens_by_layer"] == [2] * 4
    assert profile["cache_bytes"] == 4 * (2 + 7) * 2 * 2 * 16 * 2
    assert profile["added_parameters"] == 2 * 64


def test_ranking_is_part_of_the_decoder_and_told_apart() -> None:
    """One row asks: its query, keys and values of all rows, and its scores, before layers 1 (58 rows) and 3 (34)."""
    profile = profile_recipe(profiled_recipe(**PYRAMID), text_tokens=7)
    ranking = sum(2 * (64 * 64 + 2 * rows * 64 * 32 + rows * 64) for rows in (58, 34))
    assert profile["selection_flops"] == profile["selection_flops_in_decoder"] == ranking
    assert profile["selection_flops_before_llm"] == 0
    # A thousandth for rotary tables, for which some releases multiply; rows that are left need tables of their own.
    assert profile["other_flops"] < 1e-3 * profile["total_flops"]
    entering = [58, 34, 34, 22]
    layers = sum(
        2 * (2 * rows * 64 * 64 + 2 * rows * 64 * 32 + 2 * rows * rows * 64 + 3 * rows * 64 * 160) for rows in entering
    )
    assert profile["decoder_flops"] == pytest.approx(layers + ranking, rel=1e-3)


@dataclass(frozen=True)
class Asks(Method):
    """Keeps the first 4 vision tokens of a crop, after looking at keys of the tower and at the question."""

    def tokens_per_crop(self, tokens: int) -> int:
        return 4

    def select(self, model: Any, view: TowerView, prompt: Prompt) -> VisionTokens:
        view.keys(0)
        model.get_decoder()(inputs_embeds=torch.zeros(1, 7, 64, dtype=DTYPE, device=model.device), use_cache=True)
        return VisionTokens(view.patches()[:, :4])


def test_selection_before_the_llm_is_neither_tower_nor_decoder() -> None:
    """Parts that a method calls again, of the tower or of the LLM, are its own cost."""
    model = shapes(profiled_recipe(name="full"))
    plain = run_prefill(model, 3, 7)
    model.method = Asks()
    asks = run_prefill(model, 3, 7)
    keys = 2 * 3 * 17 * 32 * 32
    question = 4 * 2 * (2 * 7 * 64 * 64 + 2 * 7 * 64 * 32 + 2 * 7 * 7 * 64 + 3 * 7 * 64 * 160)
    # A thousandth for the rotary tables, for which some releases multiply.
    assert asks.selection_before == pytest.approx(keys + question, rel=1e-3)
    assert asks.flops["other_flops"] == pytest.approx(keys + question, rel=1e-3)
    assert asks.tower == plain.tower
    assert asks.projector == plain.projector // 4
    rows = 3 * 5 + 7
    assert (
        asks.layers == (2 * (2 * rows * 64 * 64 + 2 * rows * 64 * 32 + 2 * rows * rows * 64 + 3 * rows * 64 * 160),) * 4
    )
    assert asks.cached_rows == (rows,) * 4
    assert asks.total == sum(asks.flops[f"{part}_flops"] for part in ("decoder", "tower", "projector", "head", "other"))


@pytest.mark.parametrize("method", [{"name": "full"}, PYRAMID, {"name": "proxyv", "start_layer": 1, "downsample": 2}])
def test_memory_on_shapes_is_that_of_a_real_run(method: dict[str, Any]) -> None:
    recipe = replace(profiled_recipe(**method), attention="eager")
    counted = run_prefill(shapes(recipe), 3, 7).activation_bytes
    model = build_model(recipe).to(DTYPE).eval()
    inputs = make_inputs(model, 3, 7)
    known = [*model.parameters(), *model.buffers(), inputs["pixel_values"], inputs["input_ids"]]
    with LiveTensors(known) as live, torch.no_grad():
        output = model(**inputs, use_cache=True, logits_to_keep=1)
    assert counted == pytest.approx(live.peak, rel=0.01)  # index tensors are made on the CPU and copied
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    assert counted > cache


def test_needs_and_added_parameters() -> None:
    dropping = profile_recipe(profiled_recipe(**PYRAMID), text_tokens=7)
    assert dropping["needs"] == {"llm_attention": "attention of a few text rows inside the LLM"}
    assert (dropping["approximate"], dropping["added_parameters"]) == (False, 0)
    proxies = profile_recipe(profiled_recipe(name="proxyv", start_layer=1, downsample=2), text_tokens=7)
    assert proxies["added_parameters"] == proxies["parameters"]["method"] > 0


def test_a_smaller_image_is_compared_with_the_whole_image() -> None:
    profile = profile_recipe(profiled_recipe(name="smaller_image", pool=1, max_crops=1), text_tokens=7, compare="full")
    assert (profile["crops"], profile["compared"]["crops"]) == (1, 3)
    assert profile["vision_tokens_by_layer"] == [16] * 4
    assert profile["compared"]["tower_flops"] == 3 * profile["tower_flops"]


@dataclass(frozen=True)
class OneRow(Method):
    """Only crops in one row."""

    name: ClassVar[str] = ""

    def limit_grid(self, grid: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return [(columns, rows) for columns, rows in grid if rows == 1]


def test_a_method_that_limits_the_grid_gets_fewer_crops_of_the_same_image(monkeypatch: Any) -> None:
    recipe = load_recipe(CHECKOUT / "configs/recipes/vicuna-7b-full.yaml")  # grids 1×2, 2×1, 2×2, 3×1, 1×3
    assert [method_crops(recipe, crops) for crops in (1, 3, 4, 5)] == [1, 3, 4, 5]
    monkeypatch.setattr(sample_module, "make_method", lambda fields: OneRow())
    assert method_crops(recipe, 5) == 3  # of a square image, 2 × 1 crops keep as much as 3 × 1, and waste less
    assert method_crops(recipe, 1) == 1
