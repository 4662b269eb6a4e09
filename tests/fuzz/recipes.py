"""Recipes and overrides: fields of shipped and tiny recipes changed, loaded, saved, and built on shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from proxyv.config import Recipe, load_recipe, save_recipe
from proxyv.model.build import build_config, build_model, build_processor
from proxyv.model.registry import make_method
from proxyv.train.settings import check_stage
from tests.conftest import REPO
from tests.fuzz.nasty import NASTY, Change, Damage, changes, damages, places, to_json
from tests.fuzz.outcomes import Category
from tests.small_runs import page_recipe
from tests.tiny import METHODS

SHIPPED = ("tiny-proxyv-l2", "vicuna-7b-proxyv-l12", "tiny-full")
# Fields whose numbers are what they say: a rate, a share, a length.
MAY_BE_NEGATIVE = ("feature_layer", "initial", "bos_token_id", "eos_token_id", "pad_token_id", "unknown_field")


@dataclass(frozen=True)
class Broken:
    """A recipe and what was done to its fields, or to the bytes of its file."""

    recipe: str
    change: Change | Damage


@cache
def trees() -> dict[str, dict[str, Any]]:
    """Resolved recipes by name; "pages" is one that tests can build."""
    found = {name: asdict(load_recipe(REPO / "configs" / "recipes" / f"{name}.yaml")) for name in SHIPPED}
    return {"pages": asdict(page_recipe(Path("pages"), METHODS[1])), **found}


def broken_recipes() -> st.SearchStrategy[Broken]:
    """Changes of every field, half of them in the recipe that is built; damaged files."""
    all_trees = trees()
    one = {name: changes(tree).map(lambda change, name=name: Broken(name, change)) for name, tree in all_trees.items()}
    return st.one_of(one["pages"], one["pages"], *one.values(), st.builds(Broken, st.sampled_from(list(one)), damages))


def attempt(broken: Broken, folder: Path) -> None:
    """Load the recipe and use it as far as no data is needed."""
    file = folder / "recipe.yaml"
    tree, change = trees()[broken.recipe], broken.change
    text = to_json(change.of(tree) if isinstance(change, Change) else tree).encode("utf-8", "surrogatepass")
    file.write_bytes(change.of(text) if isinstance(change, Damage) else text)
    use(load_recipe(file), folder, build=broken.recipe == "pages")


def use(recipe: Recipe, folder: Path, build: bool) -> None:
    """A loaded recipe must read back as it is, hold numbers only that can be meant, and be built or refused."""
    save_recipe(recipe, folder / "again.yaml")
    assert asdict(load_recipe(folder / "again.yaml")) == asdict(recipe), "reads back as another recipe"
    for stage in recipe.stages:
        check_stage(recipe, stage)
    make_method(recipe.method, section="method")
    build_config(recipe)
    if build:
        processor = build_processor(recipe)
        build_model(recipe, image_token_id=processor.image_token_id, device="meta")
    for field, number in numbers(asdict(recipe)):
        assert math.isfinite(number), f"{field} is {number}"
        assert number >= 0 or field.rsplit(".", 1)[-1] in MAY_BE_NEGATIVE, f"{field} is {number}"


def numbers(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a recipe with their fields."""
    if isinstance(tree, (int, float)):
        yield path, tree
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from numbers(value, f"{path}.{key}" if isinstance(key, str) else path)


RECIPES = Category("recipes", st.deferred(broken_recipes), attempt)


def overrides() -> st.SearchStrategy[str]:
    """Words of a command line: fields that exist and some that do not, with all sorts of values."""
    fields = [".".join(map(str, path)) for path in places(trees()["tiny-full"]) if path]
    names = st.sampled_from(
        [*fields, "", ".", "a..b", "stages", "stages.", "stages.x.steps", "llm.config.x", "\u0000", "[0]"]
    )
    values = st.sampled_from([to_json(value) for value in NASTY]) | st.text(max_size=12)
    return st.builds("{}={}".format, names, values) | st.text(max_size=12)


def attempt_override(override: str, folder: Path) -> None:
    """Load a shipped recipe with the override."""
    use(load_recipe(REPO / "configs" / "recipes" / "tiny-full.yaml", [override]), folder, build=True)


OVERRIDES = Category("overrides", st.deferred(overrides), attempt_override)
