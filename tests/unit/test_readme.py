"""The README's tables are what the committed result files give, and its commands exist."""

import json
import re
import shutil

import pytest

from proxyv.profiling import comparison, efficiency
from proxyv.profiling.bench import bench_tables, read_result
from proxyv.report import replace_table, write_into
from tests.support_matrix import renew


def test_result_table_is_renewed(repo, tmp_path):
    copy = tmp_path / "README.md"
    shutil.copy(repo / "README.md", copy)
    write_into(copy, "quickstart", [repo / "eval" / "results" / "quickstart"])
    assert copy.read_text() == (repo / "README.md").read_text()


def test_timed_tables_are_renewed(repo, tmp_path):
    copy = tmp_path / "README.md"
    shutil.copy(repo / "README.md", copy)
    folder = repo / "eval" / "results" / "cpu-prefill"
    if (folder / "times.json").is_file():
        replace_table(copy, "cpu-prefill", bench_tables([read_result(folder / "times.json")]))
    else:  # timed one by one, before all models ran in turn
        write_into(copy, "cpu-prefill", [folder])
    assert copy.read_text() == (repo / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "to_markdown"), [("efficiency", efficiency.to_markdown), ("methods", comparison.to_markdown)]
)
def test_counted_tables_are_renewed(repo, tmp_path, name, to_markdown):
    copy = tmp_path / "README.md"
    shutil.copy(repo / "README.md", copy)
    result = json.loads((repo / "eval" / "results" / f"{name}.json").read_text())
    replace_table(copy, name, to_markdown(result))
    assert copy.read_text() == (repo / "README.md").read_text()


def test_support_tables_are_renewed(repo, tmp_path):
    copy = tmp_path / "README.md"
    shutil.copy(repo / "README.md", copy)
    cases = json.loads((repo / "eval" / "results" / "support.json").read_text())["cases"]
    renew(copy, cases)
    assert copy.read_text() == (repo / "README.md").read_text()


def test_files_it_names_exist(repo):
    text = (repo / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:proxyv|configs|scripts|eval|tests)/[\w./-]+)`", text)
    missing = [path for path in [*links, *paths] if "/x." not in path and not (repo / path).exists()]
    assert links and paths and not missing
