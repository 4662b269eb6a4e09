"""The paper's published figures, from the one file that holds them: eval/published.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.results.mir import PublishedRate

PUBLISHED = CHECKOUT / "eval" / "published.json"


@cache
def published() -> dict[str, Any]:
    """The whole file. Raises UserError outside a checkout."""
    if not PUBLISHED.is_file():
        raise UserError(f"{PUBLISHED}: no such file; run from a checkout of the repository")
    figures: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return figures


def recipe_name(row: Mapping[str, Any]) -> str:
    """The recipe of a row of `fine`: `<llm>-<method>`, with `-l<start layer>` where the row has one."""
    start = "" if row["start_layer"] is None else f"-l{row['start_layer']}"
    return f"{row['llm']}-{row['method']}{start}"


def published_figure(recipe: str, figure: str) -> float | None:
    """A figure of the paper (say "flops_reduction_pct") for the recipe of that name; None where it has none."""
    for row in published()["fine"]:
        if recipe_name(row) == recipe:
            return row[figure]
    return None


def published_scores(recipe: str, section: str) -> dict[str, float]:
    """The paper's scores for the recipe of that name, by key, from a section of the file ("fine", "general",
    "document_parsing_and_grounding"); empty where it has none."""
    rows = published()[section]
    if isinstance(rows, list):
        of_recipe: Mapping[str, Any] = next((row for row in rows if recipe_name(row) == recipe), {})
    else:  # "vicuna-7b/proxyv-L12"
        names = {name.replace("/", "-").replace("-L", "-l"): row for name, row in rows.items()}
        of_recipe = names.get(recipe, {})
    return {key: value for key, value in of_recipe.items() if isinstance(value, float | int)}


def published_rate(method: Mapping[str, Any]) -> PublishedRate | None:
    """The paper's modality integration rate for a method with these fields; None where it has none.

    The paper names neither the LLM, nor the list of images and texts, nor the mode.
    """
    figures, light = published()["mir"], method["name"] == "light_mlp" and method.get("start_layer") == 0
    key = "full" if method["name"] == "full" else "light_modules_from_layer_0" if light else None
    return None if key is None else {"value": figures[key], "setting": f"{key}: {figures['note']}"}
