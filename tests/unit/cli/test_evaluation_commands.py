"""`proxyv eval` and `proxyv rescore` on two benchmarks of five made-up answers, without a model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from proxyv.cli import main
from proxyv.evaluation.samples import BenchmarkSamples
from tests.fake_vlm import FakeModel, FakeProcessor

ANSWERS = {"q": "alpha", "question 1": "beta", "q 2?": "gamma", "long question 3": "delta", "q4": "12"}
GIVEN = {**ANSWERS, "question 1": "bett", "q4": "x"}
ANLS = 100 * (1 + 0.75 + 1 + 1 + 0) / 5
BENCHMARK = """
name: {name}
title: Toy
data: toy.json
split: toy
columns: {{image: image, question: question, answers: answer, keep: [sort]}}
max_new_tokens: 8
metrics: [anls, exact_match]
main: anls
group_by: sort
"""
SUITE = """
name: toys
title: Toys
benchmarks: [toy, toy_too]
score_name: mean
terms: [{benchmark: toy, score: anls}, {benchmark: toy_too, score: anls}]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Benchmarks, a suite and their data; `proxyv eval MODEL` finds a fake model in place of MODEL."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for folder in ("mine/benchmarks", "mine/suites", "data"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("toy", "toy_too"):
        (tmp_path / f"mine/benchmarks/{name}.yaml").write_text(BENCHMARK.format(name=name))
    (tmp_path / "mine/suites/toys.yaml").write_text(SUITE)
    Image.new("L", (8, 8)).save(tmp_path / "data/page.png")
    rows = [{"image": "page.png", "question": q, "answer": a, "sort": f"{len(q) % 2}"} for q, a in ANSWERS.items()]
    (tmp_path / "data/toy.json").write_text("\n".join(map(json.dumps, rows)))

    def load(path, device=None, dtype="auto", attention="sdpa", load_in=None):
        model = FakeModel(GIVEN.__getitem__)
        return SimpleNamespace(run=Path(path), model=model, processor=FakeProcessor(), recipe={})

    monkeypatch.setattr("proxyv.checkpoints.load.load_for_evaluation", load)
    monkeypatch.setattr("proxyv.checkpoints.load.recipe_of", lambda path: {})
    return tmp_path


def evaluate(toy, capsys, *options):
    where = ["--data_root", str(toy / "data"), "--benchmarks_dir", str(toy / "mine")]
    main(["eval", str(toy), "--suite", "toys", *where, *options])
    return capsys.readouterr().out


def rescore(toy, capsys, *options, result="eval"):
    main(["rescore", str(toy / result), "--benchmarks_dir", str(toy / "mine"), *options])
    return capsys.readouterr().out


def change(toy, old, new, name="toy"):
    path = toy / f"mine/benchmarks/{name}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_eval_finds_benchmarks_in_the_folder_that_is_named(toy, capsys):
    result = json.loads(evaluate(toy, capsys, "--limit", "2", "--json"))
    assert result["benchmarks"]["toy_too"]["num_samples"] == 2
    shown = evaluate(toy, capsys)
    assert f"toy: anls {ANLS:.2f} (5 samples)" in shown and f"Toys: mean {ANLS:.2f}" in shown


def test_eval_reads_each_benchmark_once(toy, capsys, monkeypatch):
    read, original = [], BenchmarkSamples.__init__

    def counted(self, benchmark, data_root):
        read.append(benchmark.name)
        original(self, benchmark, data_root)

    monkeypatch.setattr(BenchmarkSamples, "__init__", counted)
    evaluate(toy, capsys, "--batch_size", "auto")
    assert read == ["toy", "toy_too"]


def test_a_batch_size_is_a_number_or_auto(toy, capsys):
    with pytest.raises(SystemExit):
        evaluate(toy, capsys, "--batch_size", "many")
    assert "argument --batch_size: 'many' is neither a number nor auto" in capsys.readouterr().err


def test_eval_names_the_option_where_a_benchmark_is_not_found(toy, capsys):
    with pytest.raises(SystemExit):
        main(["eval", str(toy), "--suite", "toys", "--data_root", "x", "--benchmarks_dir", str(toy / "none")])
    assert "none: no such folder; --benchmarks_dir takes one" in capsys.readouterr().err


def test_rescore_by_the_same_benchmarks_changes_no_file(toy, capsys):
    evaluate(toy, capsys)
    before = contents(toy / "eval")
    shown = rescore(toy, capsys).splitlines()
    assert f"toy: anls {ANLS:.2f} → {ANLS:.2f} (5 samples)" in shown
    assert f"Toys: mean {ANLS:.2f} → {ANLS:.2f}" in shown and "nothing written" in shown[-1]
    rescore(toy, capsys, "--write")
    assert contents(toy / "eval") == before


def test_rescore_refuses_a_result_without_what_its_suite_needs(toy, capsys):
    evaluate(toy, capsys)
    result = json.loads((toy / "eval/toy.json").read_text())
    del result["environment"]
    (toy / "eval/toy.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit):
        rescore(toy, capsys)
    assert "toy.json: field 'environment' is missing; make the file again" in capsys.readouterr().err


def test_rescore_after_a_change_writes_answers_results_and_suite(toy, capsys):
    evaluate(toy, capsys)
    before = contents(toy / "eval")
    change(toy, "main: anls", "main: exact_match")
    change(toy, "[anls, exact_match]", "[exact_match, anls, containment]")
    result = json.loads(rescore(toy, capsys, "--json"))
    assert contents(toy / "eval") == before and not result["written"]
    of = result["benchmarks"]["toy"]
    assert (of["main"], of["before"], of["now"]) == ("exact_match", pytest.approx(ANLS), pytest.approx(60.0))
    assert set(of["scores"]) == {"anls", "exact_match", "containment"}
    shown = rescore(toy, capsys, "--write")
    assert f"toy: exact_match {ANLS:.2f} → 60.00 (5 samples)" in shown and "files rewritten" in shown
    assert json.loads((toy / "eval/toy.json").read_text())["main_score"] == pytest.approx(60.0)
    assert "containment" in json.loads((toy / "eval/toy.jsonl").read_text().splitlines()[0])["scores"]
    suite = json.loads((toy / "eval/suite-toys.json").read_text())
    assert suite["benchmarks"]["toy"]["main"] == "exact_match" and suite["score"] == pytest.approx(ANLS)


def test_rescore_updates_the_suite_when_one_of_its_benchmarks_is_named(toy, capsys):
    evaluate(toy, capsys)
    path = toy / "mine/suites/toys.yaml"
    path.write_text(path.read_text().replace("toy, score: anls", "toy, score: exact_match"))
    for result in ("eval/toy.jsonl", "eval/toy.json"):
        shown = rescore(toy, capsys, result=result)
        assert f"Toys: mean {ANLS:.2f} → {(60 + ANLS) / 2:.2f}" in shown and "toy_too" not in shown


def test_a_suite_that_lacks_a_benchmark_is_left_alone(toy, capsys):
    evaluate(toy, capsys)
    for ending in ("json", "jsonl"):
        (toy / f"eval/toy_too.{ending}").unlink()
    before = (toy / "eval/suite-toys.json").read_bytes()
    assert "Toys" not in rescore(toy, capsys, "--write")
    assert (toy / "eval/suite-toys.json").read_bytes() == before


def spoil(toy, name, old, new):
    path = toy / "eval" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (("toy_too.jsonl", '"prediction"', '"foresight"'), "line 1: field 'prediction' is missing"),
        (("toy_too.jsonl", '{"index": 0', '{{"index": 0'), "line 1 is damaged"),
        (("toy_too.jsonl", '"sort"', '"kind"'), "column 'sort' was not kept; evaluate toy_too again"),
        (("toy_too.json", '"kind": "benchmark"', '"kind": "times"'), "toy_too.json: is no result of a benchmark"),
        (("toy_too.json", '"planned_samples": ', '"planned_samples": 1'), "samples; run the evaluation again"),
        (("toy_too.json", '"kind"', '{"kind"'), "toy_too.json: not valid JSON"),
        (("toy_too.json", '"benchmark": "toy_too"', '"benchmark": "tois"'), "unknown benchmark 'tois'"),
        (("suite-toys.json", '"suite": "toys"', '"suite": "games"'), "unknown suite 'games'"),
    ],
)
def test_damaged_and_foreign_files_end_in_one_line_and_nothing_is_written(toy, capsys, spoiled, message):
    evaluate(toy, capsys)
    change(toy, "main: anls", "main: exact_match")
    spoil(toy, *spoiled)
    before = contents(toy / "eval")
    with pytest.raises(SystemExit) as stop:
        rescore(toy, capsys, "--write")
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out, len(shown.err.splitlines())) == (2, "", 1)
    assert message in shown.err and shown.err.startswith("proxyv rescore: ")
    assert contents(toy / "eval") == before


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("eval/nowhere.jsonl", "no such file or folder"),
        ("data", "holds no answers"),
        ("eval/suite-toys.json", "is no result of a benchmark"),
        ("mine/suites/toys.yaml", "is no result; give a benchmark's .jsonl or .json, or their folder"),
    ],
)
def test_wrong_paths(toy, capsys, result, message):
    evaluate(toy, capsys)
    with pytest.raises(SystemExit):
        rescore(toy, capsys, result=result)
    assert message in capsys.readouterr().err


def test_an_unfinished_run_has_no_score_before(toy, capsys):
    evaluate(toy, capsys)
    shutil.rmtree(toy / "data")
    path = toy / "eval/toy.json"
    result = json.loads(path.read_text())
    for key in ("main_score", "scores", "groups", "num_samples"):
        del result[key]
    path.write_text(json.dumps(result | {"complete": False}))
    shown = rescore(toy, capsys)
    assert f"toy: anls – → {ANLS:.2f}" in shown and "Toys" not in shown
