"""The sample that is profiled and timed (one image of so many crops, then text), and what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from proxyv.config import Recipe, load_recipe
from proxyv.errors import UserError
from proxyv.methods import make_method, method_classes
from proxyv.model.image_processing import PAPER_GRID, best_grid
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.recipe_configs import vision_config


def check_sample(recipe: Recipe, crops: int | None, text_tokens: int) -> int:
    """The number of crops to use; None means the most that one image of this recipe can have.

    Raises UserError for a recipe without shapes, a number of crops that no image has, or no text.
    """
    for field, part in (("llm.config", recipe.llm), ("vision.config", recipe.vision)):
        if not part.config and part.pretrained is None:
            raise UserError(f"{recipe.name}: {field} is empty; give the shapes, for instance by a part of configs/")
    possible = {1}  # one squared image, as in stage 1 and in samples with several images
    if recipe.vision.image_mode == "anyres":
        possible |= {1 + columns * rows for columns, rows in recipe.vision.grid or PAPER_GRID}
    if crops is not None and crops not in possible:
        listed = ", ".join(map(str, sorted(possible)))
        raise UserError(f"crops: no image has {crops} crops with this recipe's vision.grid; use one of {listed}")
    if text_tokens < 1:
        raise UserError(f"text_tokens: {text_tokens} leaves nothing to predict from; use 1 or more")
    return max(possible) if crops is None else crops


def method_crops(recipe: Recipe, crops: int) -> int:
    """Crops that the model gets of an image that fills `crops` crops in the recipe's grid: the same number, unless
    the method limits the grid."""
    if crops == 1 or recipe.vision.image_mode != "anyres":
        return crops
    grid = [(columns, rows) for columns, rows in recipe.vision.grid or PAPER_GRID]
    limited = [(columns, rows) for columns, rows in make_method(recipe.method).limit_grid(grid)]
    if not limited:
        return 1
    filled = next(pair for pair in grid if 1 + pair[0] * pair[1] == crops)
    side = vision_config(recipe.vision).image_size
    columns, rows = best_grid((filled[0] * side, filled[1] * side), limited, side)
    return 1 + columns * rows


def compared_recipe(recipe: Recipe, compare: str | Path) -> Recipe:
    """The baseline: `recipe` with the method called `compare` at its defaults, or the recipe file `compare`.

    Raises UserError where it is neither.
    """
    if compare in method_classes():
        return replace(recipe, name=str(compare), method={"name": str(compare)})
    if not Path(compare).is_file():
        known = ", ".join(sorted(method_classes()))
        raise UserError(f"compare: '{compare}' is neither a method ({known}) nor a recipe file; name one of them")
    return load_recipe(compare)


def make_inputs(
    model: ProxyVForConditionalGeneration, crops: int, text_tokens: int, batch_size: int = 1
) -> dict[str, Any]:
    """The forward's inputs for `batch_size` equal samples: image placeholders, then text; a blank image.

    `input_ids` (B, crops · (P + 1) + text_tokens), int64, with P vision tokens per crop; `pixel_values`
    (B · crops, channels, side, side) in the model's dtype; `crops_per_image`, a list of B numbers. For a model on the
    meta device `input_ids` stay on the CPU, where the layout is made; all else lies on the model's device.
    """
    config = model.config
    rows = crops * (config.tokens_per_crop + 1)
    text = (config.image_token_id + 1) % config.text_config.vocab_size  # any token but the placeholder
    input_ids = torch.full((batch_size, rows + text_tokens), text, dtype=torch.long)
    input_ids[:, :rows] = config.image_token_id
    side, channels = config.vision_config.image_size, config.vision_config.num_channels
    return {
        "input_ids": input_ids if model.device.type == "meta" else input_ids.to(model.device),
        "pixel_values": torch.zeros(batch_size * crops, channels, side, side, dtype=model.dtype, device=model.device),
        "crops_per_image": [crops] * batch_size,
    }
