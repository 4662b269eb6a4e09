"""Who runs in one timing run: recipes from the words of a command line, and the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from proxyv.config import Recipe, load_recipe
from proxyv.errors import UserError
from proxyv.methods import describe_method, make_method, method_classes
from proxyv.profiling.sample import compared_recipe


def read_recipes(words: Sequence[str], overrides: Sequence[str] = ()) -> list[Recipe]:
    """Recipes from words: a recipe file, or a method in place of the first file's: its name, or a YAML mapping of its
    fields like `{name: visionzip, dominant: 360}`. Overrides are for the files.

    Raises UserError where a word is neither, or two recipes have one name.
    """
    recipes: list[Recipe] = []
    for word in words:
        if word in method_classes() or word.lstrip().startswith("{"):
            if not recipes:
                raise UserError(f"'{word}': a recipe file must come first; the method takes its LLM and tower")
            recipes.append(_with_method(recipes[0], word))
        else:
            recipes.append(load_recipe(word, overrides))
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two recipes are called '{name}'; leave one out, or give it a name of its own")
    return recipes


def _with_method(recipe: Recipe, word: str) -> Recipe:
    if word in method_classes():
        return compared_recipe(recipe, word)
    try:
        fields: Any = OmegaConf.to_container(OmegaConf.create(word))
    except Exception as error:  # the YAML library has several error classes, none of them public
        raise UserError(f"'{word}': not a YAML mapping: {error}") from error
    make_method(fields, f"'{word}'")  # raises for unknown names and fields
    given = [f"{key}={value}" for key, value in fields.items() if key != "name"]
    return replace(recipe, name=" ".join([fields["name"], *given]), method=fields)


def with_baseline(recipes: Sequence[Recipe], compare: str | Path | None, fold: str) -> tuple[list[Recipe], str | None]:
    """The recipes with the baseline behind them, and its name. Of several recipes one may be the baseline.

    Raises UserError where `compare` is neither a method nor a recipe file, or where one method cannot be the baseline
    of all recipes.
    """
    if compare is None:
        return list(recipes), None
    baseline = compared_recipe(recipes[0], compare)
    for recipe in recipes if compare in method_classes() else []:
        if (recipe.llm.config, recipe.vision) != (baseline.llm.config, baseline.vision):
            raise UserError(
                f"{recipe.name}: not the LLM and tower of {recipes[0].name}, so there is no one baseline; "
                "time it in a run of its own, or name a recipe file with --compare"
            )
    if len(recipes) > 1 and fold != "yes":
        for recipe in recipes:
            if _same_model(recipe, baseline):
                return list(recipes), recipe.name
    while baseline.name in [recipe.name for recipe in recipes]:
        baseline = replace(baseline, name=f"{baseline.name} (baseline)")
    return [*recipes, baseline], baseline.name


def _same_model(one: Recipe, other: Recipe) -> bool:
    parts = [(recipe.llm.config, recipe.vision, describe_method(make_method(recipe.method))) for recipe in (one, other)]
    return parts[0] == parts[1]
