"""Every suite runs on generated rows, with no data there, and nothing of that reaches a table."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxyv.cli import main
from proxyv.errors import UserError
from proxyv.evaluation import check_suite, list_names
from proxyv.evaluation.benchmarks import load_benchmark
from proxyv.evaluation.dry_run import ROWS, generated_samples
from proxyv.report.runs import find_runs
from tests.fake_vlm import FakeModel, FakeProcessor


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder; `proxyv eval` finds a fake model in it."""

    def load(path, device=None, dtype="auto", attention="sdpa", load_in=None):
        return SimpleNamespace(run=Path(path), model=FakeModel(str.upper), processor=FakeProcessor(), recipe={})

    monkeypatch.setattr("proxyv.checkpoints.load.load_for_evaluation", load)
    monkeypatch.setattr("proxyv.checkpoints.load.recipe_of", lambda path: {"data_root": "/none", "suite": "synthetic"})
    monkeypatch.setattr("proxyv.checkpoints.load.run_folder", Path)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("name", list_names("benchmarks"))
def test_rows_of_every_benchmark_can_be_generated(tmp_path, name):
    samples = generated_samples(load_benchmark(name), tmp_path)
    assert len(samples) >= 1 and samples[0].question
    assert samples.benchmark.title.endswith(" (dry run)") and samples.benchmark.definition()["generated"]


def test_a_dry_run_goes_all_the_way_and_reaches_no_table(run, capsys):
    main(["eval", str(run), "--dry_run"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"a dry run, on generated rows in {run}/eval/dry-run/data: the figures mean nothing"
    assert f"({ROWS} samples)" in shown[0]
    results = sorted((run / "eval/dry-run").glob("*.json"))
    assert len(results) == len(check_suite("synthetic", run / "eval/dry-run/data").samples) + 1
    for file in results:
        result = json.loads(file.read_text())
        parts = result.get("benchmarks", {"": result}).values()
        assert all(part["benchmark_definition"]["generated"] and "(dry run)" in part["title"] for part in parts)
        with pytest.raises(UserError, match="no results here"):
            find_runs([file])
    for place in (run, run / "eval", run / "eval/dry-run"):
        with pytest.raises(UserError, match="no results here"):
            find_runs([place])
    with pytest.raises(SystemExit):
        main(["eval", str(run), "--dry_run", "--data_root", "data"])
    assert "a dry run makes its own data; leave it out" in capsys.readouterr().err


OWN = """
name: own
title: Own
data: {data}
split: all
columns: {{image: picture, question: q, answers: a, id: key, keep: [{keep}]}}
max_new_tokens: 8
metrics: [{metric}]
main: {main}
"""


@pytest.mark.parametrize("data", ["own/*.parquet", "own", "own/lines.jsonl", "own/0.parquet"])
def test_rows_of_a_benchmark_of_ones_own(tmp_path, data):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(data=data, keep="bbox", metric="grounding", main="acc@0.5"))
    samples = generated_samples(load_benchmark(path), tmp_path)
    assert (len(samples), samples[1].id, samples[1].references) == (ROWS, "1", ["answer 1"] * 10)


def test_the_main_process_alone_writes_the_rows(tmp_path, monkeypatch):
    benchmark = load_benchmark("synthetic_docvqa")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="no rows can be generated in its columns .* does not exist"):
        generated_samples(benchmark, tmp_path)
    monkeypatch.setenv("RANK", "0")
    written = [sample.id for sample in generated_samples(benchmark, tmp_path)]
    monkeypatch.setenv("RANK", "1")
    assert [sample.id for sample in generated_samples(benchmark, tmp_path)] == written == ["0", "1"]
