"""Stages that do not depend on the method: trained once, with method `full`, and every recipe starts from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from proxyv.checkpoints.run_folder import stage_names
from proxyv.config import Recipe
from proxyv.errors import UserError
from proxyv.schema import first_difference


def shared_recipe(recipes: Sequence[Recipe], stages: Sequence[str], name: str) -> Recipe:
    """The recipe `name` that trains the shared `stages` for all `recipes`.

    Raises UserError where they are not every recipe's first stages, where one of them trains the method, or where
    recipes differ in anything but name, method, suite and the stages that each runs for itself.
    """
    for recipe in recipes:
        _check_stages(recipe, stages)
    foundations = [
        replace(
            recipe,
            name=name,
            method={"name": "full"},
            stages={stage: recipe.stages[stage] for stage in stages},
            run_stages=None,
            suite=None,
        )
        for recipe in recipes
    ]
    for recipe, foundation in zip(recipes, foundations, strict=True):
        if found := first_difference(asdict(foundations[0]), asdict(foundation)):
            field, first, other = found
            raise UserError(
                f"{field}: {recipes[0].name} has {first!r} and {recipe.name} has {other!r}; recipes that share stages "
                "must agree there"
            )
    return foundations[0]


def own_recipe(recipe: Recipe, stages: Sequence[str], foundation: Path) -> Recipe:
    """What is left of a recipe: its other stages, starting from the run that trained the shared ones."""
    return replace(recipe, start_from=str(foundation), run_stages=stage_names(recipe)[len(stages) :])


def _check_stages(recipe: Recipe, stages: Sequence[str]) -> None:
    names = stage_names(recipe)
    if names[: len(stages)] != list(stages) or len(names) == len(stages):
        raise UserError(
            f"{recipe.name}: {', '.join(stages)} cannot be shared: these must be its first stages, in order, and leave "
            f"one; it has {', '.join(names)}"
        )
    for stage in stages:
        if "method" in recipe.stages[stage].train:
            raise UserError(
                f"{recipe.name}: stages.{stage}.train: trains the method, so the stage cannot be shared; leave it out "
                "of the shared ones, or 'method' out of the list"
            )
