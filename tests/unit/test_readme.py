"""The tables of the README and of other pages are what the committed result files give, and what they name exists."""

import json
import re
import shutil

import pytest

from proxyv.cli import main
from proxyv.experiments import method_costs, paper_flops
from proxyv.profiling.bench import bench_tables, read_result
from proxyv.report.make import write_into
from proxyv.report.markdown import replace_table
from tests.support_matrix import update

PAGES = ("README.md", "eval/README.md", "docs/reproduce.md")


@pytest.fixture
def unchanged(repo, tmp_path):
    """Call it with a page and what updates one of its tables: nothing may change."""

    def check(page, update_table):
        copy = tmp_path / "page.md"
        shutil.copy(repo / page, copy)
        update_table(copy)
        assert copy.read_text() == (repo / page).read_text()

    return check


@pytest.mark.parametrize(
    ("page", "name"), [("README.md", "quickstart"), ("eval/README.md", "synthetic"), ("eval/README.md", "location")]
)
def test_trained_tables(repo, unchanged, page, name):
    unchanged(page, lambda copy: write_into(copy, name, [repo / "eval" / "results" / name]))


def test_timed_tables(repo, unchanged):
    result = read_result(repo / "eval" / "results" / "cpu-prefill" / "times.json")
    unchanged("eval/README.md", lambda copy: replace_table(copy, "cpu-prefill", bench_tables([result])))


@pytest.mark.parametrize(
    ("name", "to_markdown"), [("efficiency", paper_flops.to_markdown), ("methods", method_costs.to_markdown)]
)
def test_counted_tables(repo, unchanged, name, to_markdown):
    result = json.loads((repo / "eval" / "results" / f"{name}.json").read_text())
    unchanged("eval/README.md", lambda copy: replace_table(copy, name, to_markdown(result)))


def test_catalogue_of_methods(unchanged):
    unchanged("README.md", lambda copy: main(["methods", "--into", f"{copy}#method-catalogue"]))


def test_list_of_sources(unchanged):
    unchanged("docs/reproduce.md", lambda copy: main(["data", "list", "--into", f"{copy}#data"]))


def test_support_tables(repo, unchanged):
    cases = json.loads((repo / "eval" / "results" / "support.json").read_text())["cases"]
    unchanged("eval/README.md", lambda copy: update(copy, cases))


@pytest.mark.parametrize("page", PAGES)
def test_files_it_names_exist(repo, page):
    text = (repo / page).read_text()
    links = [(repo / page).parent / link for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text)]
    paths = [repo / path for path in re.findall(r"`((?:proxyv|configs|scripts|eval|tests)/[\w./-]+)`", text)]
    missing = [str(path) for path in [*links, *paths] if "/x." not in str(path) and not path.exists()]
    assert links and not missing


@pytest.mark.parametrize("page", PAGES)
def test_sections_it_links_to_exist(repo, page):
    text = (repo / page).read_text()
    for link, section in re.findall(r"\]\(((?!http)[^)#]*)#([^)]+)\)", text):
        target = (repo / page).parent / link if link else repo / page
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
        assert section in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
