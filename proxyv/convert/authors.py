"""The authors' ProxyV checkpoints (arXiv 2505.15816, public code at commit 42d6d97) → ours.

Their guided update of the last layer is dropped: nothing reads its result and it was never trained. Their newline
positions are kept (`newline_positions: authors`), since the weights were trained with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from proxyv.config import suggest
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig, sub_config
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor, chat_template
from proxyv.model.vision import grid_side

# Their model type → our family and its chat template.
MODEL_TYPES = {"llava_llama": ("llama", "vicuna_v1"), "llava_qwen": ("qwen2", "qwen")}

# Their key → ours; {layer} is the LLM layer that the j-th guided update belongs to.
_RENAMES = (
    (r"^model\.image_newline$", "image_newline"),
    (r"^model\.mm_projector\.0\.", "projector.up."),
    (r"^model\.mm_projector\.2\.", "projector.down."),
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower.{tower}"),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.0\.", "language_model.model.layers.{layer}.guided_update.mix."),
    (r"^model\.vision_mlp_layers\.(\d+)\.proj\.2\.", "language_model.model.layers.{layer}.guided_update.up."),
    (
        r"^model\.vision_mlp_layers\.(\d+)\.layernorm_post\.",
        "language_model.model.layers.{layer}.guided_update.norm.",
    ),
    (r"^model\.vision_mlp_layers\.(\d+)\.", "language_model.model.layers.{layer}.guided_update."),
    (
        r"^model\.proxyv_initializer\.proxyv_tokens$",
        "language_model.model.layers.{start}.proxy_initializer.queries",
    ),
    (r"^model\.proxyv_initializer\.Wk\.", "language_model.model.layers.{start}.proxy_initializer.key_proj."),
    (r"^(model\.|lm_head\.)", r"language_model.\g<0>"),
)


def rename_key(key: str, start_layer: int, tower_prefix: str = "") -> str:
    """Our name of one of their parameters; `tower_prefix` is what the tower's own class puts before its keys."""
    for pattern, ours in _RENAMES:
        match = re.match(pattern, key)
        if match:
            layer = start_layer + int(match[1]) if "{layer}" in ours else None
            new = ours.replace("{layer}", str(layer)).replace("{start}", str(start_layer))
            return match.expand(new.replace("{tower}", tower_prefix)) + key[match.end() :]
    raise UserError(f"weights: unknown key '{key}'; this is no checkpoint of the authors' ProxyV code")


def load_authors(
    source: str | Path, tower: str | None = None, dtype: torch.dtype = torch.float32
) -> ProxyVForConditionalGeneration:
    """Load a checkpoint folder of theirs (safetensors, or `.bin` read with `weights_only`).

    Args:
        source: folder with config.json and weights.
        tower: hub id or folder that holds the tower's configuration; default: what the config names.

    Raises UserError for a wrong model type (naming what is supported) and for keys that are missing, unused or
    misshapen (listing them).
    """
    source = Path(source)
    theirs = read_config(source)
    weights = dict(_read_weights(source))
    config = authors_config(theirs, _tower_config(theirs, tower), weights)
    model = ProxyVForConditionalGeneration(config).to(dtype)
    start, prefix = int(config.method.get("start_layer", 0)), tower_prefix(model)
    last = f"language_model.model.layers.{config.text_config.num_hidden_layers - 1}.guided_update."
    ours = {rename_key(key, start, prefix): value for key, value in weights.items()}
    _fill(model, {key: value for key, value in ours.items() if not key.startswith(last)}, str(source))
    return model.eval()


def convert_authors(source: str | Path, target: str | Path, tower: str | None = None) -> Path:
    """Write a checkpoint of theirs as a complete model folder of ours, with its processor.

    Raises UserError as `load_authors` does, and where the folder has no tokenizer.
    """
    source, target = Path(source), Path(target)
    model = load_authors(source, tower, dtype=torch.bfloat16)
    processor = _processor(source, read_config(source), model.config)
    model.config.image_token_id = processor.image_token_id
    model.save_pretrained(target)
    processor.save_pretrained(target)
    return target


def read_config(source: Path) -> dict[str, Any]:
    """Their config.json, checked for a supported model type."""
    path = source / "config.json"
    if not path.is_file():
        raise UserError(f"{source}: no config.json; give the folder of a checkpoint")
    theirs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = theirs.get("model_type")
    if found not in MODEL_TYPES:
        raise UserError(f"{path}: model_type '{found}' is not one of theirs{suggest(str(found), MODEL_TYPES)}")
    return theirs


def authors_config(
    theirs: Mapping[str, Any], vision_config: PreTrainedConfig, weights: Mapping[str, torch.Tensor]
) -> ProxyVConfig:
    """Our configuration for their config.json; hidden width and number of queries are read off the weights."""
    family, _ = MODEL_TYPES[theirs["model_type"]]
    known = {*sub_config({"model_type": family}, "family").to_dict(), "rope_theta", "rope_scaling"}
    skipped = {"model_type", "transformers_version", "torch_dtype", "dtype", "architectures", "layer_types"}
    text = {key: value for key, value in theirs.items() if key in known - skipped}
    # They clear Qwen2's window in their own layer class; full attention is what the weights saw.
    text_config = sub_config({"model_type": family, **text}, "config")
    return ProxyVConfig(
        text_config=text_config,
        vision_config=vision_config,
        method=_method(theirs, weights),
        image_token_id=text_config.vocab_size,
        feature_layer=theirs.get("mm_vision_select_layer", -2),
        newline_positions="authors",
    )


def _method(theirs: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    if not theirs.get("proxyv", False):
        return {"name": "full"}
    inner = weights["model.vision_mlp_layers.0.context_proj.weight"].shape[0]
    shared = {
        "start_layer": theirs["proxyv_start_layer"],
        "hidden_ratio": theirs["hidden_size"] // inner,
    }
    if theirs.get("learn_proxy", False):
        queries = weights["model.proxyv_initializer.proxyv_tokens"].shape[0]
        return {"name": "proxyv_ns", **shared, "queries": queries}
    return {"name": "proxyv", **shared, "downsample": theirs["proxyv_reduce_factor"]}


def _tower_config(theirs: Mapping[str, Any], tower: str | None) -> PreTrainedConfig:
    name = tower or theirs.get("mm_vision_tower")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"mm_vision_tower: no configuration at '{name}'; name the tower's folder or hub id") from error
    return getattr(config, "vision_config", config)


def tower_prefix(model: ProxyVForConditionalGeneration) -> str:
    """ "vision_model." where this transformers version nests the tower's weights below it, else nothing."""
    return "vision_model." if hasattr(model.vision_tower, "vision_model") else ""


def _read_weights(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(source.glob("*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{source}: no weights (*.safetensors or pytorch_model*.bin); give the checkpoint's folder")
    for file in files:
        safe = file.suffix == ".safetensors"
        shard = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        yield from shard.items()


def _fill(model: ProxyVForConditionalGeneration, weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy every weight in; missing, unused and misshapen keys are one error that lists them."""
    own = model.state_dict()
    misshapen = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    problems = {"missing": own.keys() - weights.keys(), "unused": weights.keys() - own.keys(), "misshapen": misshapen}
    listed = "; ".join(f"{kind}: {', '.join(sorted(keys))}" for kind, keys in problems.items() if keys)
    if listed:
        raise UserError(f"{source}: the weights do not fit the configuration: {listed}")
    model.load_state_dict(weights)


def _processor(source: Path, theirs: Mapping[str, Any], config: ProxyVConfig) -> ProxyVProcessor:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: no tokenizer beside the weights; copy the LLM's tokenizer files there") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    size = config.vision_config.image_size
    pinpoints = theirs.get("image_grid_pinpoints") or [[size, size]]
    images = ProxyVImageProcessor(
        crop_size=size,
        tokens_per_crop=grid_side(config.vision_config) ** 2,
        image_mode="anyres" if theirs.get("image_aspect_ratio") == "anyres" else "pad",
        grid=[[width // size, height // size] for width, height in pinpoints],
    )
    return ProxyVProcessor(images, tokenizer, chat_template(MODEL_TYPES[theirs["model_type"]][1]))
