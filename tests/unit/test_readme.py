"""The README's tables are what the committed result files give, and its commands exist."""

import json
import re
import shutil

import pytest

from proxyv.profiling import comparison, efficiency
from proxyv.report import replace_table, write_into
from tests.support_matrix import renew


@pytest.mark.parametrize("name", ["quickstart", "cpu-prefill"])
def test_result_tables_are_renewed(repo, tmp_path, name):
    copy = tmp_path / "README.md"
    shutil.copy(repo / "README.md", copy)
    write_into(copy, name, [repo / "eval" / "results" / name])
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
