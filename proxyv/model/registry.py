"""The methods there are, found by looking in proxyv/methods: one module, one `Method` subclass, one `name`.

The folder is found by its name when a method is first needed: methods are plug-ins, and stand above the model.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from proxyv.config import Recipe, check_names
from proxyv.errors import UserError, suggest
from proxyv.model.method import Method
from proxyv.model.normalisation import settle_normalisation
from proxyv.schema import as_plain, from_mapping

PACKAGE = "proxyv.methods"


@cache
def method_classes() -> dict[str, type[Method]]:
    """Every method by its name. Raises UserError for a folder that is not there, and for a name used twice."""
    package = importlib.import_module(PACKAGE)
    for folder in package.FOLDERS:
        if not os.path.isdir(folder):
            raise UserError(f"PROXYV_METHODS: '{folder}' is no folder; fix the variable")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PACKAGE}.{module.name}")
    found: dict[str, type[Method]] = {}
    for method in _descendants(Method):
        if method.name and found.setdefault(method.name, method) is not method:
            other = found[method.name].__module__
            raise UserError(f"{method.__module__}: method name '{method.name}' is taken by {other}; choose another")
    return found


def _descendants(parent: type[Method]) -> list[type[Method]]:
    return [found for child in parent.__subclasses__() for found in (child, *_descendants(child))]


def make_method(fields: Mapping[str, Any], source: str = "", section: str = "method") -> Method:
    """The method that `{"name": …, field: value, …}` describes; fields left out keep their defaults.

    Args:
        source: the file the fields are from, named in errors; "": none.
        section: their place in it.

    Raises UserError for an unknown name or field, naming the nearest known one, and for a value outside its domain.
    """
    values = dict(fields)
    name = str(values.pop("name", None))
    if name not in method_classes():
        at = f"{source}: " if source else ""
        raise UserError(f"{at}unknown {section}.name '{name}'{suggest(name, method_classes())}")
    method: Method = from_mapping(method_classes()[name], values, source, section)
    return method


def describe_method(method: Method) -> dict[str, Any]:
    """The inverse of `make_method`, with every field written out."""
    return {"name": method.name, **dataclasses.asdict(method)}


def settle_fields(fields: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """A method's fields with its defaults written out, as they read back from a YAML or JSON file.

    Raises UserError as `make_method` does.
    """
    method = make_method(fields, source)
    return {"name": method.name, **as_plain(method)}


def settle_recipe(recipe: Recipe, source: str = "") -> Recipe:
    """The recipe with every field of its method and its normalisation written out: what is recorded, and what recipes
    are compared by.

    Raises UserError as `make_method` does, and for a recipe made in Python with a field outside its domain.
    """
    checked = from_mapping(Recipe, dataclasses.asdict(recipe), source)
    check_names(checked, f"{source}: " if source else "")
    vision = settle_normalisation(checked.vision)
    return dataclasses.replace(checked, vision=vision, method=settle_fields(recipe.method, source))
