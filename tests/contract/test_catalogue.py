"""Every method is in the catalogue, with what a reader looks for."""

import dataclasses
import json
import re

import pytest

from proxyv.files import CHECKOUT
from proxyv.methods import make_method, method_classes
from proxyv.model.catalogue import CatalogueEntry, catalogue
from proxyv.model.method import NEEDS

ENTRIES = {entry.name: entry for entry in catalogue()}
every_method = pytest.mark.parametrize("name", sorted(method_classes()))


@every_method
def test_entry(name):
    entry = ENTRIES[name]
    assert len(entry.one_line) > 20 and entry.one_line.endswith(".") and "Paper" not in entry.one_line
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.arxiv) and entry.link == f"https://arxiv.org/abs/{entry.arxiv}"
    assert entry.place in ("before the LLM", "inside the LLM", "both") or name == "full"
    assert set(entry.needs) <= set(NEEDS)
    assert (CHECKOUT / entry.file).is_file()
    assert f'"{name}"' in (CHECKOUT / entry.file).read_text(encoding="utf-8")


@every_method
def test_json_round_trip(name):
    entry = ENTRIES[name]
    assert CatalogueEntry(**json.loads(json.dumps(dataclasses.asdict(entry)))) == entry


@every_method
def test_what_adds_parameters_is_trained(name):
    assert ENTRIES[name].trained or not make_method({"name": name}).modules


def test_a_combination_is_trained_where_one_of_its_methods_is():
    free = {"name": "combination", "before_llm": {"name": "random"}, "inside_llm": {"name": "fastv"}}
    assert not make_method(free).trained
    assert make_method({**free, "inside_llm": {"name": "proxyv_ns"}}).trained
