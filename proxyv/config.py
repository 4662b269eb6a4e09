"""Recipes: what a recipe holds (dataclasses), and how its YAML files and overrides are composed into one.

A recipe file names `parts` (other files, relative to itself) that are merged in order, then its own fields on
top, then the command line's `--a.b value`. Whatever is not a field of the dataclasses below is an error.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from proxyv.errors import UserError
from proxyv.schema import from_mapping, read_yaml


@dataclass
class LLMSpec:
    """The language model: a family's configuration, and where its weights and tokenizer come from."""

    pretrained: str | None = None  # hub id or folder with the weights; null: random weights from `config`
    config: dict[str, Any] = field(default_factory=dict)  # Hugging Face text config with `model_type`
    tokenizer: str | None = None  # hub id or folder; "characters": the built-in one; null: as `pretrained`
    chat_template: str = "vicuna_v1"  # a file of proxyv/model/chat_templates
    pad_token: str | None = None  # token used for padding; null: the tokenizer's own


@dataclass
class VisionSpec:
    """The vision tower and how images become its crops."""

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=dict)  # Hugging Face vision config with `model_type`
    feature_layer: int = -2  # index into the tower's hidden states
    image_mode: str = "anyres"  # "anyres" (thumbnail + grid crops) or "pad" (one square crop)
    grid: list[list[int]] = field(default_factory=list)  # anyres: allowed (columns, rows), in crops
    newline_positions: str = "natural"  # or "authors": as the weights they released expect
    image_mean: list[float] = field(default_factory=lambda: [0.48145466, 0.4578275, 0.40821073])
    image_std: list[float] = field(default_factory=lambda: [0.26862954, 0.26130258, 0.27577711])


@dataclass
class PagesSpec:
    """Synthetic pages that are rendered into `data_root` before they are first needed."""

    kinds: list[str] = field(default_factory=list)
    train_pages: int = 0  # pages of each kind
    test_pages: int = 0  # rows of each benchmark
    rows: int = 8  # cells; one character a cell
    columns: int = 8
    cell: int = 14  # pixels
    difficulty: str = "easy"  # easy, medium, hard
    turns_per_page: int = 4
    seed: int = 0


@dataclass
class DataSpec:
    """One data set: which reader, which files (relative to `data_root`), what to do about missing images."""

    reader: str = "llava"
    path: str = ""
    images: str | None = None  # image folder
    limit: int | None = None  # use only the first `limit` samples
    on_bad_image: str = "fail"  # "fail", "skip" or "substitute" (a blank image)


@dataclass
class LoRASpec:
    """Low-rank adapters in place of training layers themselves (pip install 'proxyv[train]')."""

    rank: int = 16
    alpha: int = 32  # updates are scaled by alpha / rank
    dropout: float = 0.0
    # "all-linear" (the LLM's linear layers without the head), or a list of their names; "tower", "projector" or
    # "method" in the list puts adapters on that group's linear layers too
    targets: Any = "all-linear"


@dataclass
class StageSpec:
    """One training run: its modules, data, rates and length."""

    data: list[str] = field(default_factory=list)  # names in the recipe's `data`
    train: list[str] = field(default_factory=list)  # of tower, projector, newline, method, llm
    lora: LoRASpec | None = None  # adapters: a group that has them trains through them alone
    objective: str = "language_modeling"  # or "patch_classification" (the tower alone)
    image_mode: str | None = None  # overrides the vision part's for this stage
    learning_rate: float = 1e-3
    group_learning_rate: dict[str, float] = field(default_factory=dict)  # module group -> rate
    optimizer: str = "adamw"  # "adamw" or "muon"
    global_batch_size: int = 1
    micro_batch_size: int = 1  # samples per device and forward pass
    epochs: float = 1.0
    steps: int | None = None  # overrides epochs
    warmup_ratio: float = 0.03
    schedule: str = "cosine"  # cosine, linear, constant, or trapezoid (flat, then down in the last half)
    weight_decay: float = 0.0
    beta2: float = 0.999
    max_grad_norm: float = 1.0
    max_length: int = 2048  # tokens, vision and newline rows included
    on_too_long: str = "skip"  # "skip" (counted) or "fail"
    dtype: str = "float32"  # "float32" or "bfloat16"
    gradient_checkpointing: bool = False
    compile: bool = False
    group_by_length: bool = False
    deepspeed: str | None = None  # a DeepSpeed JSON, relative to the recipe's repository
    dataloader_workers: int = 0
    save_steps: int | None = None
    logging_steps: int = 10


@dataclass
class Recipe:
    """Model + method + data + stages. Saved, resolved, in every run folder as `recipe.yaml`."""

    name: str = ""
    llm: LLMSpec = field(default_factory=LLMSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    method: dict[str, Any] = field(default_factory=lambda: {"name": "full"})  # fields: proxyv/methods/<name>.py
    pages: PagesSpec | None = None
    data_root: str = "data"
    data: dict[str, DataSpec] = field(default_factory=dict)
    stages: dict[str, StageSpec] = field(default_factory=dict)  # run in this order
    run_stages: list[str] | None = None  # null: all of `stages`
    start_from: str | None = None  # folder of a trained model to warm-start from
    output_dir: str = "runs"
    suite: str | None = None  # benchmark suite that `proxyv eval` runs by default
    attention: str = "sdpa"  # "eager" or "sdpa"
    report_to: list[str] = field(default_factory=list)  # "wandb", "tensorboard"; the JSONL log is always kept
    seed: int = 0


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file with its parts and the overrides (`["method.start_layer=16", …]`) on top.

    Raises UserError for a missing file, an unknown or misspelt key, or a value of the wrong type.
    """
    merged = _read_with_parts(Path(path), ())
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    recipe = from_mapping(Recipe, merged, str(path))
    if not recipe.name:
        recipe.name = Path(path).stem
    return recipe


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the resolved recipe as YAML that `load_recipe` reads back."""
    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)), encoding="utf-8")


def _read_with_parts(path: Path, parents: tuple[Path, ...]) -> DictConfig:
    """The file with all its parts merged below it; parts of parts included."""
    if path.resolve() in parents:
        raise UserError(f"{path}: 'parts' leads back to the file itself; remove one of the two")
    own = read_yaml(path)
    merged = OmegaConf.create({})
    for part in own.pop("parts", []):
        merged = _merge(merged, _read_with_parts(path.parent / part, (*parents, path.resolve())))
    return _merge(merged, own)


def _parse_override(override: str) -> DictConfig:
    if "=" not in override:
        raise UserError(f"override '{override}': write it as --field.subfield value")
    return OmegaConf.from_dotlist([override])


def _forget_renamed(base: DictConfig, top: DictConfig, keys: Sequence[str]) -> None:
    """Delete from `base` the mappings at `keys`, or inside them, for which `top` has another name."""
    for key in keys:
        old, new = base.get(key), top.get(key)
        if not (isinstance(old, DictConfig) and isinstance(new, DictConfig)):
            continue
        if new.get("name", old.get("name")) != old.get("name"):
            del base[key]
        else:
            _forget_renamed(old, new, [str(inner) for inner in new])


def _merge(base: DictConfig, top: DictConfig) -> DictConfig:
    """Merge `top` over `base`; a `method` with another name replaces the whole method, and so does one inside it."""
    base = copy.deepcopy(base)
    _forget_renamed(base, top, ["method"])
    merged = OmegaConf.merge(base, top)
    assert isinstance(merged, DictConfig)
    return merged
