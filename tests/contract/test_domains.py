"""Every field that a YAML file may set states which values it takes, and takes no others.

The walk goes over the fields of all recipes, methods, benchmarks and suites there are. A field without a domain in its
type fails it, so a new field cannot be forgotten.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from proxyv.config import PageDifficulty, PageKind, Recipe, load_recipe, save_recipe
from proxyv.domains import CheckedBy, Declared
from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import Benchmark, Suite
from proxyv.files import CHECKOUT
from proxyv.methods import describe_method, make_method, method_classes
from proxyv.model.registry import settle_recipe
from proxyv.pages import DIFFICULTIES, KINDS
from proxyv.schema import from_mapping
from proxyv.sources.source import Source

SCHEMAS: dict[str, type] = {
    "Recipe": Recipe,
    "Benchmark": Benchmark,
    "Source": Source,
    "Suite": Suite,
    **{f"method {name}": schema for name, schema in sorted(method_classes().items())},
}
NAN, INFINITY = float("nan"), float("inf")


class Domain:
    """A field's type, taken apart."""

    def __init__(self, hint: Any):
        self.marks: list[Any] = []
        self.optional = False
        while get_origin(hint) is Annotated or type(None) in get_args(hint):
            if get_origin(hint) is Annotated:
                self.marks += hint.__metadata__
            self.optional |= type(None) in get_args(hint)
            hint = next(inner for inner in get_args(hint) if inner is not type(None))
        self.hint, self.origin, self.arguments = hint, get_origin(hint) or hint, get_args(hint)

    @property
    def bounds(self) -> dict[str, Any]:
        """What limits a number or a length, by pydantic's names."""
        limits = [limit for mark in self.marks for limit in getattr(mark, "metadata", ())]
        names = ("gt", "ge", "lt", "le", "min_length")
        return {name: getattr(limit, name) for limit in limits for name in names if hasattr(limit, name)}

    @property
    def checked_elsewhere(self) -> bool:
        return any(isinstance(mark, CheckedBy) for mark in self.marks)


def good(domain: Domain) -> Any:
    """A value inside the domain."""
    if dataclasses.is_dataclass(domain.hint):
        return good_fields(domain.hint)
    if domain.origin is Literal:
        return domain.arguments[0]
    if domain.origin in (list, tuple):
        return [good(Domain(domain.arguments[0]))] * domain.bounds.get("min_length", 1)
    if domain.origin is dict:
        return {}
    if domain.origin in (int, float):
        return next(value for value in (1, 0.5, 0) if not breaks(domain.bounds, value))
    return {bool: True, str: "word"}[domain.hint]


def good_fields(schema: type) -> dict[str, Any]:
    """A mapping with the fields that `schema` requires."""
    hints = get_type_hints(schema, include_extras=True)
    missing = dataclasses.MISSING
    needed = [field.name for field in dataclasses.fields(schema) if field.default is field.default_factory is missing]
    return {name: good(Domain(hints[name])) for name in needed}


def breaks(bounds: dict[str, Any], value: float) -> bool:
    return not all(getattr(operator, name)(value, limit) for name, limit in bounds.items())


def bad(domain: Domain, path: str) -> list[Any]:
    """Values outside the domain, derived from the type; fails where the type leaves anything open."""
    wrong: list[Any] = [] if domain.optional else [None]
    if dataclasses.is_dataclass(domain.hint):
        assert issubclass(domain.hint, Declared), f"{path}: {domain.hint.__name__} must be a Declared dataclass"
        return [*wrong, 3, "word", [1], {"no_such_field": 1}]
    if domain.origin is Literal:
        return [*wrong, "no such word", 3, True, [domain.arguments[0]]]
    if domain.hint is bool:
        return [*wrong, 2, "perhaps", [True], NAN]
    if domain.origin in (int, float):
        bounds = domain.bounds
        assert {"gt", "ge"} & set(bounds), f"{path}: a number without a lowest value; take a type of proxyv/domains.py"
        if domain.hint is int:
            assert {"lt", "le"} & set(bounds), f"{path}: an int without a highest value"
        steps = {"ge": -1, "le": 1, "gt": 0, "lt": 0}
        wrong += [limit + steps[name] for name, limit in bounds.items()]
        return [*wrong, *([2.5] if domain.hint is int else []), True, "word", NAN, INFINITY, -INFINITY, [1], {}]
    if domain.hint is str:
        said = domain.checked_elsewhere or len(domain.marks)
        assert said, f"{path}: text without a domain; take Text, Place or Name of proxyv/domains.py"
        return [*wrong, "\x00", "a\x07b", "\ud800", [1], {}, True]
    if domain.origin in (list, tuple):
        return [*wrong, 3, {"a": 1}, True]
    if domain.origin is dict:
        free = domain.arguments[1] is Any
        assert not free or domain.checked_elsewhere, f"{path}: a free mapping must say who checks it"
        return [*wrong, 3, "word", [1]]
    raise AssertionError(f"{path}: {domain.hint} says nothing about its values")


def walk(hint: Any, path: str, put: Any) -> list[tuple[str, Any]]:
    """Every (path, mapping with one value outside its domain) of a type; `put` puts a value at its place."""
    domain = Domain(hint)
    found = [(path, put(value)) for value in bad(domain, path)]
    if dataclasses.is_dataclass(domain.hint):
        hints = get_type_hints(domain.hint, include_extras=True)
        for field in dataclasses.fields(domain.hint):
            put_field = lambda value, name=field.name: put({**good_fields(domain.hint), name: value})  # noqa: E731
            found += walk(hints[field.name], f"{path}.{field.name}".lstrip("."), put_field)
    elif domain.origin in (list, tuple):
        rest = good(domain)[1:]
        found += walk(domain.arguments[0], f"{path}[0]", lambda value: put([value, *rest]))
    elif domain.origin is dict and domain.arguments[1] is not Any:
        key = good(Domain(domain.arguments[0]))
        found += walk(domain.arguments[1], f"{path}.{key}", lambda value: put({key: value}))
        inner, keys = good(Domain(domain.arguments[1])), bad(Domain(domain.arguments[0]), path)
        found += [(path, put({wrong: inner})) for wrong in keys if isinstance(wrong, str)]
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_refuses_what_is_outside_its_domain(name: str) -> None:
    schema = SCHEMAS[name]
    good_values = good_fields(schema)
    from_mapping(schema, good_values)
    cases = [(path, values) for path, values in walk(schema, "", lambda value: value) if path]
    fields = {field.name for field in dataclasses.fields(schema)}
    assert fields == {path.split(".")[0].split("[")[0] for path, _ in cases}
    for path, values in cases:
        with pytest.raises(UserError) as refused:
            from_mapping(schema, values, "file.yaml")
        said = str(refused.value)
        assert said.startswith("file.yaml: ") and "\n" not in said
        assert path in said, said


@pytest.mark.parametrize(
    "hint", [int, float, str, dict[str, Any], list[str], Any, int | str, Annotated[float, "positive"]], ids=str
)
def test_a_field_without_a_domain_fails_the_walk(hint: Any) -> None:
    schema = dataclasses.make_dataclass("Forgotten", [("field", hint)], bases=(Declared,))
    with pytest.raises(AssertionError, match="field"):
        walk(schema, "", lambda value: value)


def test_defaults_lie_in_their_domains() -> None:
    for schema in SCHEMAS.values():
        values = good_fields(schema)
        for field in dataclasses.fields(schema):
            if field.name not in values and not (schema is Recipe and field.name == "name"):  # the file gives it
                default = field.default_factory() if callable(field.default_factory) else field.default
                plain = dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default
                from_mapping(schema, {**values, field.name: plain})


@pytest.mark.parametrize("name", sorted(method_classes()))
def test_a_settled_recipe_reads_back_as_it_is(name: str, tmp_path: Path) -> None:
    recipe = settle_recipe(Recipe(name="one", method={"name": name}))
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe == settle_recipe(recipe)
    assert recipe.method == json.loads(json.dumps(describe_method(make_method({"name": name}))))


def test_words_that_two_rooms_share_are_the_same() -> None:
    assert set(get_args(PageKind)) == set(KINDS) and set(get_args(PageDifficulty)) == set(DIFFICULTIES)


def test_places_that_check_are_there() -> None:
    def marks(hint: Any) -> list[Any]:
        found = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, CheckedBy)]
        return found + [mark for inner in get_args(hint) for mark in marks(inner)]

    schemas = [Domain(hint).hint for schema in SCHEMAS.values() for hint in get_type_hints(schema).values()]
    for schema in {*SCHEMAS.values(), *filter(dataclasses.is_dataclass, schemas)}:
        for hint in get_type_hints(schema, include_extras=True).values():
            for mark in marks(hint):
                assert (CHECKOUT / "proxyv" / mark.place).exists(), mark.place
