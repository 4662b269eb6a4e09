"""Recipes: what a recipe holds (dataclasses) and how its YAML files become one (strict, composed, overridable).

A recipe file names `parts` (other files, relative to itself) that are merged in order, then its own fields on
top, then the command line's `--a.b value`. Whatever is not a field of the dataclasses below is an error.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from proxyv.errors import UserError


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


def from_mapping(schema: type, values: Mapping[str, Any] | DictConfig, source: str) -> Any:
    """Make a `schema` dataclass from a mapping; `source` names the file in errors.

    Raises UserError for unknown keys (with the nearest known one) and for values of the wrong type.
    """
    plain = OmegaConf.to_container(OmegaConf.create(cast(DictConfig, values)), resolve=False)
    check_keys(schema, cast("dict[str, Any]", plain), source)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise UserError(f"{source}: field '{key}': {str(error).splitlines()[0]}") from error


def check_keys(schema: type, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
    """Raise UserError for the first key of `values`, at any depth, that `schema` does not have, naming the nearest."""
    hints = get_type_hints(schema)
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{source}: unknown key '{prefix}{key}'{suggest(str(key), hints)}")
        inner = next((t for t in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(t)), None)
        if inner is None or not isinstance(value, Mapping):
            continue
        is_map = get_origin(hints[key]) is dict
        below = {f"{prefix}{key}.{name}.": v for name, v in value.items()} if is_map else {f"{prefix}{key}.": value}
        for path, fields in below.items():
            if isinstance(fields, Mapping):
                check_keys(cast(type, inner), fields, source, path)


def suggest(word: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """The end of an error message: the nearest known word, or all of them."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(sorted(known))}"


def first_difference(one: Any, other: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """The first field, at any depth, in which two mappings differ, and its two values; None where they are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        below = f"{field}." if field else ""
        parts = (first_difference(one.get(k), other.get(k), f"{below}{k}") for k in sorted({*one, *other}))
        return next((part for part in parts if part), None)
    return None if one == other else (field, one, other)


def _read_with_parts(path: Path, parents: tuple[Path, ...]) -> DictConfig:
    """The file with all its parts merged below it; parts of parts included."""
    if path.resolve() in parents:
        raise UserError(f"{path}: 'parts' leads back to the file itself; remove one of the two")
    own = read_yaml(path)
    merged = OmegaConf.create({})
    for part in own.pop("parts", []):
        try:
            merged = _merge(merged, _read_with_parts(path.parent / part, (*parents, path.resolve())))
        except FileNotFoundError as error:
            raise UserError(f"{path}: part '{part}' does not exist; fix the path under 'parts'") from error
    return _merge(merged, own)


def read_yaml(path: str | Path) -> DictConfig:
    """Read one YAML mapping. Raises UserError where the file is missing or is no mapping."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a YAML file")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # the YAML library has several error classes, none of them public
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold a mapping of fields, found a {type(loaded).__name__}")
    return loaded


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
