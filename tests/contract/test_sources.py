"""Every file of configs/sources loads strictly, says where its facts were read, and every data set has one."""

import json

import pytest

from proxyv.cli import main
from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import list_names, load_benchmark
from proxyv.files import CHECKOUT
from proxyv.sources.names import find_sources, sources_of
from proxyv.sources.source import FOLDER, all_sources, load_source, source_names

NAMES = source_names()


@pytest.mark.parametrize("name", NAMES)
def test_sources_load_and_name_the_documents_of_their_facts(name):
    source = load_source(name)
    assert source.read_in and set(source.read_in) >= {"hub"}, "at least the hub's name was read somewhere"
    assert source.hub.count("/") == 1 and source.folder.rstrip("/") == source.folder
    for fact in source.read_in:
        value = {"rows": source.rows, "gigabytes": any(one.gigabytes for one in source.files)}.get(fact)
        assert value or getattr(source, fact), f"{fact} is read in a document, and null"
    assert source.revision is None or (len(source.revision) == 40 and "revision" in source.read_in)


def test_folders_are_shared_only_by_parts_of_one_repository():
    folders: dict[str, str] = {}
    for source in all_sources():
        assert folders.setdefault(source.folder, source.hub) == source.hub


@pytest.mark.parametrize("name", [name for name in list_names("benchmarks") if not name.startswith("synthetic_")])
def test_every_public_benchmark_has_a_source(name):
    assert sources_of(name, load_benchmark(name).data)


def test_every_data_set_of_the_papers_recipes_has_a_source():
    recipe = load_recipe(CHECKOUT / "configs" / "recipes" / "vicuna-7b-full.yaml")
    found = {name: [one.name for one in all_sources() if one.holds(spec.path)] for name, spec in recipe.data.items()}
    assert found == {"sharegpt4v": ["sharegpt4v"], "llava_next": ["llava_next"]}


@pytest.mark.parametrize("word", ["licens: x", "revision: [1]", "folder: ../x", "unpack: {a.zip: /etc}"])
def test_a_faulty_file_is_one_line(tmp_path, word):
    text = (FOLDER / "chartqa.yaml").read_text()
    key = word.split(":")[0]
    lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
    (tmp_path / "chartqa.yaml").write_text("\n".join([*lines, word]))
    with pytest.raises(UserError, match="chartqa.yaml: .*(licens|revision|\\.\\./x|/etc)"):
        load_source("chartqa", tmp_path)


def test_names_are_those_of_sources_benchmarks_and_suites():
    assert [one.name for one in find_sources(["chartqa", "docvqa", "chartqa"])] == ["chartqa", "docvqa"]
    assert [one.name for one in find_sources([])] == NAMES
    with pytest.raises(UserError, match="unknown source, benchmark or suite 'chartq'; did you mean 'chartqa'"):
        find_sources(["chartq"])
    with pytest.raises(UserError, match="benchmark synthetic_docvqa: .* is of no source in configs/sources"):
        find_sources(["synthetic"])


def test_the_list_says_what_is_unverified_and_what_is_unknown(capsys, tmp_path):
    main(["data", "list", "--data_root", str(tmp_path)])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(NAMES) + 2 and shown[-1].startswith("?: not known")
    assert next(line for line in shown if line.startswith("chartqa ")).endswith(" –")
    main(["data", "list", "chartqa", "--json", "--data_root", str(tmp_path)])
    chartqa = json.loads(capsys.readouterr().out)["chartqa"]
    assert chartqa["unverified"] == ["rows"] and chartqa["licence"] is None and chartqa["fetched"] is None
    main(["data", "list", "chartqa", "--data_root", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "rows: 2,500  [unverified]" in shown and "licence: not known" in shown and "[lmms-eval 0.7.3" in shown
