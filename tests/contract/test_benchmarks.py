"""Every benchmark and suite in eval/ loads, and scores known answers as known."""

import statistics

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import CHECKOUT, load_benchmark, load_suite
from proxyv.evaluation.runner import evaluate
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.evaluation.scoring import rescore
from proxyv.pages.benchmark_rows import TABLES, write_generated
from proxyv.report.paper_tables import PAPER_TABLES
from proxyv.report.published import published
from tests.fake_vlm import FakeModel, FakeProcessor

SUITES = sorted(path.stem for path in (CHECKOUT / "eval/suites").glob("*.yaml"))
BENCHMARKS = sorted(path.stem for path in (CHECKOUT / "eval/benchmarks").glob("*.yaml"))
SYNTHETIC = [name for name in BENCHMARKS if name.startswith("synthetic_")]
PUBLIC = [name for name in BENCHMARKS if name in TABLES]

TEXT = "red fox 12 xy"
BOX = "[0.25, 0.25, 0.75, 0.75]"  # what the columns below say: 10 and 30 of 40 pixels


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_three_rows(benchmark, path):
    """Three rows with all columns the YAML names; the second question will be answered with nothing."""
    columns = benchmark.columns
    text = Value("string")
    values = {name: (["x"] * 3, text) for name in columns.keep}
    if "bbox" in values:
        values["bbox"] = ([[10, 10, 20, 20]] * 3, List(Value("float32")))
    if columns.id:
        values[columns.id] = (["0", "1", "2"], text)
    values[columns.image] = ([Pillow.new("RGB", (40, 40))] * 3, Image())
    values[columns.question] = (["first", "second", "third"], text)
    values[columns.answers] = ([[TEXT] * 10] * 3, List(text))
    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({name: feature for name, (_, feature) in values.items()})
    Dataset.from_dict({name: rows for name, (rows, _) in values.items()}, features=features).to_parquet(path)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in PUBLIC])
def test_known_answers_get_known_scores(name, tmp_path):
    benchmark = load_benchmark(name)
    write_three_rows(benchmark, tmp_path / benchmark.data)
    right = BOX if "grounding" in benchmark.metrics else TEXT
    model = FakeModel(lambda question: "" if "second" in question.lower() else right)
    result = evaluate(
        model, FakeProcessor(), benchmark, data_root=tmp_path, output_dir=tmp_path, batch_size=2, progress=False
    )
    # Two of three are perfect and one scores nothing.
    expected = {score: 1 / 3 if score == "edit_distance" else 2 / 3 for score in benchmark.score_names}
    assert result["scores"] == pytest.approx(expected)
    assert result["main_score"] == pytest.approx(expected[benchmark.main] * benchmark.scale)
    assert rescore(tmp_path / f"{name}.jsonl", benchmark)["scores"] == result["scores"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_unknown_key_is_an_error(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text((CHECKOUT / f"eval/benchmarks/{name}.yaml").read_text() + "splitt: x\n")
    with pytest.raises(UserError, match="unknown key 'splitt'; did you mean 'split'"):
        load_benchmark(path)


@pytest.mark.parametrize("name", SUITES)
def test_suites_load(name):
    suite = load_suite(name)
    assert suite.terms and len(set(suite.benchmarks)) == len(suite.benchmarks)


def test_score_fine_is_the_papers_mean():
    terms = load_suite("score_fine").terms
    assert terms == load_suite("paper").terms and {term.scale for term in terms} == {100}
    for row in published()["fine"]:
        mean = statistics.fmean(row[term.benchmark.removesuffix("_val")] for term in terms)
        assert mean == pytest.approx(row["score_fine"], abs=0.02), row


def test_the_papers_tables_are_of_the_suites_of_their_names():
    whole = set(load_suite("paper").benchmarks)
    for table in PAPER_TABLES:
        suite = set(load_suite(table.name).benchmarks)
        assert {column.benchmark for column in table.columns} == suite <= whole


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_benchmarks_read_what_the_page_maker_writes(name, tmp_path):
    from proxyv.pages import PageSpec
    from proxyv.pages.benchmark_files import BENCHMARK_FILES as WRITERS

    benchmark = load_benchmark(name)
    path = tmp_path / benchmark.data
    path.parent.mkdir(parents=True)
    WRITERS[path.stem].write(path, PageSpec(), seed=0, pages=3)
    samples = BenchmarkSamples(benchmark, tmp_path)
    assert len(samples) == 3
    answers = {sample.question: right_answer(sample, samples.images(sample)[0].size) for sample in samples}
    longest = max(map(len, answers.values()))
    assert longest < benchmark.max_new_tokens, "the longest answer and its end token must fit"
    model = FakeModel(lambda question: answers[question])
    result = evaluate(model, FakeProcessor(), benchmark, data_root=tmp_path, output_dir=tmp_path, progress=False)
    if len(answers) == 3:  # the same question may be asked of several pages
        assert result["scores"][benchmark.main] == pytest.approx(1)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_benchmarks_are_answered_on_generated_rows(name, tmp_path):
    benchmark = load_benchmark(name)
    write_generated(name, tmp_path, 28 if name == "mme" else 6, seed=2)  # MME has 14 categories of pairs
    samples = BenchmarkSamples(benchmark, tmp_path)
    assert len(samples) >= 4
    answers = {sample.text: right_answer(sample, samples.images(sample)[0].size) for sample in samples}
    options = {"data_root": tmp_path, "output_dir": tmp_path / "out", "batch_size": 4, "progress": False}
    for given, expected in ((answers, 1), (dict.fromkeys(answers, "¿"), 0)):
        benchmark.max_new_tokens = 1000  # a token is a character here
        result = evaluate(FakeModel(given.__getitem__), FakeProcessor(), benchmark, **options)
        assert result["scores"][benchmark.main] == expected, given
        assert list(result["scores"]) == benchmark.score_names
        assert rescore(tmp_path / "out" / f"{name}.jsonl", benchmark)["scores"] == result["scores"]


def test_all_generated_rows_are_of_a_benchmark():
    assert set(TABLES) == set(PUBLIC)


def right_answer(sample, image_size):
    if "bbox" not in sample.kept:
        return max(sample.references, key=sample.references.count)
    (x, y, width, height), (w, h) = sample.kept["bbox"], image_size
    return f"[{x / w:.3f}, {y / h:.3f}, {(x + width) / w:.3f}, {(y + height) / h:.3f}]"
