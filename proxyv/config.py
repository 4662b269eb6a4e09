"""Recipes: what a recipe holds, as dataclasses; read from YAML files (proxyv/compose.py) and written.

Whatever is not a field of the dataclasses below is an error, and so is a value outside the domain that a field's type
states (proxyv/domains.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import BeforeValidator, Field

from proxyv.compose import composed
from proxyv.domains import (
    ONCE,
    CheckedBy,
    Count,
    Declared,
    Index,
    Name,
    NotNegative,
    OutputFolder,
    Place,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    Size,
    Text,
)
from proxyv.errors import UserError, suggest
from proxyv.files import write_text
from proxyv.schema import from_mapping

ImageMode = Literal["anyres", "pad"]
NewlinePositions = Literal["natural", "authors"]
ModuleGroup = Literal["tower", "projector", "newline", "method", "llm"]
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "constant", "trapezoid"]
TrainedIn = Literal["float32", "bfloat16"]
PageKind = Literal["documents", "charts", "scene", "dense", "boxes"]
PageDifficulty = Literal["easy", "medium", "hard"]

GridSide = Annotated[Count, Field(le=64)]
Grid = Annotated[list[GridSide], Field(min_length=2, max_length=2)]
PerChannel = Field(min_length=3, max_length=3)  # red, green, blue


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass
class LLMSpec(Declared):
    """The language model: a family's configuration, and where its weights and tokenizer come from."""

    pretrained: Place | None = None  # hub id or folder with the weights; null: random weights from `config`
    # Hugging Face text config with `model_type`; without one, what differs from the `config.json` of `pretrained`
    config: Annotated[dict[str, Any], CheckedBy("model/recipe_configs.py")] = field(default_factory=dict)
    tokenizer: Place | None = None  # hub id or folder; "characters": the built-in one; null: as `pretrained`
    # A file of proxyv/model/chat_templates; null: the one whose control tokens the tokenizer has, else vicuna_v1
    chat_template: Annotated[Name, CheckedBy("model/chat_tokens.py")] | None = None
    pad_token: Annotated[Text, CheckedBy("model/chat_tokens.py")] | None = None  # null: the tokenizer's own


@dataclass
class VisionSpec(Declared):
    """The vision tower and how images become its crops."""

    pretrained: Place | None = None
    # Hugging Face vision config with `model_type`; without one, what differs from the `config.json` of `pretrained`
    config: Annotated[dict[str, Any], CheckedBy("model/recipe_configs.py")] = field(default_factory=dict)
    feature_layer: Annotated[Index, CheckedBy("model/recipe_configs.py")] = -2  # index into the tower's hidden states
    image_mode: ImageMode = "anyres"  # "anyres" (thumbnail + grid crops) or "pad" (one square crop)
    grid: list[Grid] = field(default_factory=list)  # anyres: allowed (columns, rows), in crops; none: the paper's
    newline_positions: NewlinePositions = "natural"  # or "authors": as the weights they released expect
    # Normalisation per channel, for values in 0…1; null: as `pretrained` says, else as the tower's kind has it
    image_mean: Annotated[list[Share], PerChannel] | None = None
    image_std: Annotated[list[Positive], PerChannel] | None = None


@dataclass
class PagesSpec(Declared):
    """Synthetic pages that are rendered into `data_root` before they are first needed."""

    kinds: Annotated[list[PageKind], ONCE] = field(default_factory=list)
    train_pages: Size = 0  # pages of each kind
    test_pages: Size = 0  # rows of each benchmark
    rows: Annotated[Count, CheckedBy("pages/page.py")] = 8  # cells; one character a cell
    columns: Annotated[Count, CheckedBy("pages/page.py")] = 8
    cell: Annotated[Count, CheckedBy("pages/page.py")] = 14  # pixels
    difficulty: PageDifficulty = "easy"
    turns_per_page: Count = 4
    seed: Seed = 0


@dataclass
class DataSpec(Declared):
    """One data set: which reader, which files (relative to `data_root`), what to do about what is bad in them."""

    reader: Annotated[Name, CheckedBy("data/readers.py")] = "llava"
    path: Annotated[Text, CheckedBy("data/readers.py")] = ""
    images: Place | None = None  # image folder
    limit: Count | None = None  # use only the first `limit` samples
    on_bad_image: Literal["fail", "skip", "substitute"] = "fail"  # "substitute": a blank image
    on_bad_record: Literal["fail", "skip"] = "fail"  # a malformed record; "skip": counted, and named in the log
    max_bad_records: Share = 0.01  # share of records, malformed or with a bad image, above which a run stops anyway
    allow_outside: bool = False  # records may name images outside of `images` (by "..", or an absolute path)


@dataclass
class LoRASpec(Declared):
    """Low-rank adapters in place of training layers themselves (pip install 'proxyv[train]')."""

    rank: Count = 16
    alpha: Count = 32  # updates are scaled by alpha / rank
    dropout: ShareBelowOne = 0.0
    # "all-linear" (the LLM's linear layers without the head), or a list of their names; "tower", "projector" or
    # "method" in the list puts adapters on that group's linear layers too
    targets: Annotated[
        list[Annotated[Name, CheckedBy("train/adapters.py")]], BeforeValidator(_as_list), Field(min_length=1)
    ] = field(default_factory=lambda: ["all-linear"])


@dataclass
class StageSpec(Declared):
    """One training run: its modules, data, rates and length."""

    data: Annotated[list[Name], ONCE] = field(default_factory=list)  # names in the recipe's `data`
    train: Annotated[list[ModuleGroup], ONCE] = field(default_factory=list)
    lora: LoRASpec | None = None  # adapters: a group that has them trains through them alone
    # or "patch_classification" (the tower alone)
    objective: Annotated[Name, CheckedBy("data/objectives")] = "language_modeling"
    image_mode: ImageMode | None = None  # overrides the vision part's for this stage
    learning_rate: Positive = 1e-3
    # module group -> rate; for groups in `train`
    group_learning_rate: dict[ModuleGroup, NotNegative] = field(default_factory=dict)
    optimizer: Optimizer = "adamw"
    global_batch_size: Count | None = None  # samples per optimiser step; null: one micro-batch of each process
    micro_batch_size: Count = 1  # samples per device and forward pass
    epochs: Annotated[Positive, Field(le=1_000_000)] = 1.0
    steps: Count | None = None  # overrides epochs
    warmup_ratio: Share = 0.03
    schedule: Schedule = "cosine"  # trapezoid: flat, then down in the last half
    weight_decay: NotNegative = 0.0
    beta2: ShareBelowOne = 0.999
    max_grad_norm: NotNegative = 1.0  # 0: gradients are not clipped
    max_length: Count = 2048  # tokens, vision and newline rows included
    on_too_long: Literal["skip", "fail"] = "skip"  # "skip": counted
    dtype: TrainedIn = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    group_by_length: bool = False
    deepspeed: Place | None = None  # a DeepSpeed JSON, relative to the recipe's repository
    dataloader_workers: Annotated[Size, Field(le=256)] = 0  # of each process
    save_steps: Count | None = None  # from one checkpoint to the next; null: none but where a signal ends the run
    keep_checkpoints: Count = 2  # the newest ones
    logging_steps: Count = 10


@dataclass
class Recipe(Declared):
    """Model + method + data + stages. Saved, resolved, in every run folder as `recipe.yaml`."""

    name: Name = ""  # of the run folder; by default the recipe file's, without its ending
    llm: LLMSpec = field(default_factory=LLMSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    # `name`, and the fields of proxyv/methods/<name>.py
    method: Annotated[dict[str, Any], CheckedBy("model/registry.py")] = field(default_factory=lambda: {"name": "full"})
    pages: PagesSpec | None = None
    data_root: Place = "data"
    data: dict[Name, DataSpec] = field(default_factory=dict)
    stages: dict[Name, StageSpec] = field(default_factory=dict)  # run in this order
    run_stages: Annotated[list[Name], ONCE] | None = None  # null: all of `stages`
    start_from: Place | None = None  # folder of a trained model to warm-start from
    output_dir: OutputFolder = "runs"  # absolute, or below the working folder
    suite: Place | None = None  # benchmark suite that `proxyv eval` runs by default
    attention: Annotated[Text, CheckedBy("model/attention.py")] = "sdpa"  # "eager" or "sdpa"
    report_to: list[Literal["wandb", "tensorboard"]] = field(default_factory=list)  # the JSONL log is always kept
    seed: Seed = 0


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file with its parts and the overrides (`["method.start_layer=16", …]`) on top.

    Raises UserError for a missing file, an unknown or misspelt key, or a value outside its field's domain.
    """
    path = Path(path)
    recipe = from_mapping(Recipe, {"name": path.stem, **composed(path, overrides)}, str(path))
    check_names(recipe, f"{path}: ")
    return recipe


def check_names(recipe: Recipe, prefix: str = "") -> None:
    """Raise UserError for a name of a stage or a data set that the recipe does not have. A part of a recipe may have
    none of them at all: others bring them."""
    uses = {f"stages.{name}.data": stage.data for name, stage in recipe.stages.items()} if recipe.data else {}
    known = dict.fromkeys(uses, list(recipe.data))
    if recipe.stages:
        uses["run_stages"], known["run_stages"] = recipe.run_stages or [], list(recipe.stages)
    for place, names in uses.items():
        for name in names:
            if name not in known[place]:
                kind = "stage" if place == "run_stages" else "data set"
                raise UserError(f"{prefix}{place}: '{name}' is no {kind}{suggest(name, known[place])}")


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the resolved recipe as YAML that `load_recipe` reads back."""
    write_text(Path(path), OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(recipe)))))


def _escaped(value: Any) -> Any:
    """The value with every `${` in its texts, at any depth, as OmegaConf reads it without interpolation."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
