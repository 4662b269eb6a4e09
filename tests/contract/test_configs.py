"""Every shipped recipe loads strictly and its model has the known size; every part is used."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.files import CHECKOUT
from proxyv.model.build import build_model
from proxyv.model.image_processing import PAPER_GRID
from proxyv.model.modeling import MODULE_GROUPS, ProxyVForConditionalGeneration
from proxyv.yaml_files import read_yaml

CONFIGS = CHECKOUT / "configs"
RECIPES = sorted(p for room in ("recipes", "ablations") for p in (CONFIGS / room).rglob("*.yaml"))
PARTS = sorted(p for room in ("llm", "vision", "method", "data", "stages") for p in (CONFIGS / room).rglob("*.yaml"))
PAPER_LLMS = ("vicuna-7b", "vicuna-13b", "llama3-8b", "qwen2-7b", "phi3-3b", "internlm2.5-7b")
PUBLISHED = json.loads((CHECKOUT / "eval" / "published.json").read_text(encoding="utf-8"))

# Published parameter counts of the language models.
STAGE_1_RATES = {"qwen2-7b": 8e-4, "phi3-3b": 5e-4}  # of the guided updates; 3e-4 for the others
KNOWN_SIZES = {
    "phi3-3b": 3_821_079_552,
    "internlm2.5-7b": 7_737_708_544,
    "vicuna-7b": 6_738_415_616,
    "vicuna-13b": 13_015_864_320,
    "llama3-8b": 8_030_261_248,
    "qwen2-7b": 7_615_616_512,
    "granite3.3-2b": 2_533_539_840,
    "gemma2-2b": 2_614_341_888,
    "smollm3-3b": 3_075_098_624,
    "olmo2-1b": 1_484_916_736,
}


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def paper_llm(path: Path) -> str | None:
    return next((llm for llm in PAPER_LLMS if path.stem.startswith(llm)), None)


PAPER_RECIPES = [path for path in RECIPES if path.parent.name == "recipes" and paper_llm(path)]


def llm_parameters(config: Any) -> int:
    """Closed formula for the LLM families: gated FFN, grouped-query attention, Qwen2's biases in q, k and v."""
    d, layers, vocabulary = config.hidden_size, config.num_hidden_layers, config.vocab_size
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    layer = 2 * d * q + 2 * d * kv + 3 * d * config.intermediate_size + 2 * d
    if config.model_type == "qwen2":
        layer += q + 2 * kv
    return layers * layer + d + vocabulary * d * (1 if config.tie_word_embeddings else 2)


def count_by_group(model: ProxyVForConditionalGeneration) -> dict[str, int]:
    counts = dict.fromkeys(MODULE_GROUPS, 0)
    for name, parameter in model.named_parameters():
        counts[model.module_group(name)] += parameter.numel()
    return counts


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_loads_and_builds(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    model = build_model(recipe, device="meta")
    assert all(parameter.device == torch.device("meta") for parameter in model.parameters())
    counts = count_by_group(model)
    config, tower = model.config.text_config, model.config.vision_config
    assert counts["llm"] == llm_parameters(config)
    width, tower_width = config.hidden_size, tower.hidden_size
    assert counts["projector"] == tower_width * width + width * width + 2 * width
    assert counts["newline"] == width
    for stage_name, stage in recipe.stages.items():
        assert set(stage.data) <= set(recipe.data), stage_name
        assert set(stage.train) <= set(MODULE_GROUPS), stage_name
        assert set(stage.group_learning_rate) <= set(stage.train), stage_name
        assert stage.global_batch_size % stage.micro_batch_size == 0, stage_name
        assert stage.deepspeed is None or (CHECKOUT / stage.deepspeed).is_file(), stage_name


@pytest.mark.parametrize("path", PAPER_RECIPES, ids=name_of)
def test_paper_recipe_has_the_known_size(path: Path) -> None:
    recipe = load_recipe(path)
    model = build_model(recipe, device="meta")
    config = model.config.text_config
    counts = count_by_group(model)
    assert counts["llm"] == KNOWN_SIZES[str(paper_llm(path))]
    assert round(counts["tower"] / 1e6) == 304  # CLIP ViT-L/14
    d, m = config.hidden_size, config.hidden_size // 4
    updates = [module for name, module in model.named_modules() if name.endswith(".guided_update")]
    # Three maps between d and m, one from 2m to m, and a norm; none in the last layer, where nothing reads it.
    start = recipe.method.get("start_layer", config.num_hidden_layers - 1)
    assert len(updates) == config.num_hidden_layers - 1 - start
    for update in updates:
        size = sum(parameter.numel() for parameter in update.parameters())
        assert size == 3 * d * m + 2 * m * m + d
        if d == 4096:
            published = PUBLISHED["guided_update_parameters_per_layer"]["vicuna-7b"]
            assert size == pytest.approx(published, abs=0.005e6)
            assert round(size / 1e6, 2) == 14.68


@pytest.mark.parametrize("path", PAPER_RECIPES, ids=name_of)
def test_paper_recipe_has_the_published_hyper_parameters(path: Path) -> None:
    recipe = load_recipe(path)
    assert list(recipe.stages) == ["pretrain", "finetune"]
    pretrain, finetune = recipe.stages.values()
    assert (pretrain.train, pretrain.image_mode) == (["projector", "newline", "method"], "pad")
    assert (finetune.train, finetune.image_mode) == (["projector", "newline", "method", "llm"], "anyres")
    assert (pretrain.learning_rate, finetune.learning_rate) == (1e-3, 4e-5)
    expected_rate = STAGE_1_RATES.get(str(paper_llm(path)), 3e-4)
    assert pretrain.group_learning_rate == {"method": expected_rate}
    assert finetune.group_learning_rate == {}
    assert (pretrain.global_batch_size, finetune.global_batch_size) == (512, 512)
    assert (pretrain.max_length, finetune.max_length) == (2048, 4096)
    for stage in (pretrain, finetune):
        assert (stage.optimizer, stage.schedule, stage.warmup_ratio) == ("adamw", "cosine", 0.03)
        assert (stage.epochs, stage.weight_decay, stage.dtype) == (1.0, 0.0, "bfloat16")
        assert stage.gradient_checkpointing
    assert recipe.vision.grid == PAPER_GRID
    assert recipe.llm.pad_token and recipe.llm.pad_token.startswith("<")  # a special token, never one of the text


def test_every_published_experiment_is_shipped() -> None:
    names = {path.stem for path in RECIPES}
    for row in PUBLISHED["fine"]:
        start = "" if row["start_layer"] is None else f"-l{row['start_layer']}"
        assert f"{row['llm']}-{row['method']}{start}" in names


@pytest.mark.parametrize("llm", PAPER_LLMS)
def test_figure_2_masks_the_published_shares(llm: str) -> None:
    folder = CONFIGS / "ablations" / "figure-2-mask-attention"
    recipes = [load_recipe(path) for path in folder.glob(f"{llm}-*.yaml")]
    layers = recipes[0].llm.config["num_hidden_layers"]
    shares = [float(share) for share in PUBLISHED["figure2_mask_attention"][llm]]
    starts = [layers - round(share * layers) for share in shares]
    assert sorted(recipe.method["start_layer"] for recipe in recipes) == sorted(starts)
    for recipe in recipes:
        assert recipe.name == f"{llm}-mask_attention-l{recipe.method['start_layer']}"
        assert (recipe.run_stages, recipe.start_from) == ([], f"runs/{llm}-full")


def test_recipe_names_are_unique() -> None:  # a sweep over any of them needs it
    names = [path.stem for path in RECIPES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_part_loads_alone_and_is_used(path: Path, tmp_path: Path) -> None:
    load_recipe(path)
    room = path.parent.name
    if room in ("llm", "method", "data"):  # no recipe need use it: it fits the paper's baseline as it is
        baseline = {part.parent.name: part for part in parts_of(CONFIGS / "recipes" / "vicuna-7b-full.yaml")}
        if room == "data":
            del baseline["stages"]  # which name the paper's data sets
        parts = {**baseline, room: path}
        (tmp_path / "with.yaml").write_text(f"parts: [{', '.join(str(part) for part in parts.values())}]")
        recipe = load_recipe(tmp_path / "with.yaml")
        if room != "data":  # test_readers.py reads those
            model = build_model(recipe, device="meta")
            assert model.config.method["name"] == recipe.method["name"]
            assert model.config.text_config.model_type == recipe.llm.config["model_type"]
        if path.stem in KNOWN_SIZES:
            assert count_by_group(model)["llm"] == KNOWN_SIZES[path.stem]
    else:
        users = [recipe for recipe in RECIPES if path.resolve() in parts_of(recipe)]
        assert users, f"no recipe uses {name_of(path)}"


@cache
def parts_of(path: Path) -> frozenset[Path]:
    below: set[Path] = set()
    for part in read_yaml(path).get("parts", []):
        found = (path.parent / part).resolve()
        below |= {found} | parts_of(found)
    return frozenset(below)
