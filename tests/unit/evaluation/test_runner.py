import json
import socket

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from proxyv.environment import describe_model, environment
from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import load_benchmark, load_suite
from proxyv.evaluation.rescoring import rescore_results
from proxyv.evaluation.runner import evaluate, evaluate_suite
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.evaluation.scoring import rescore
from proxyv.files import read_json, read_records, write_json
from proxyv.locks import only_process
from tests.fake_vlm import FakeModel, FakeProcessor

# Questions of different lengths; two of five answers are wrong, one of them nearly right.
ANSWERS = {"q": "alpha", "question 1": "beta", "q 2?": "gamma", "long question 3": "delta", "q4": "12"}
GIVEN = {**ANSWERS, "question 1": "bett", "q4": "x"}
# anls: 1, 1 - 1/4, 1, 1, 0
ANLS = (1 + 0.75 + 1 + 1 + 0) / 5

BENCHMARK = """
name: {name}
title: Toy
data: {data}
split: toy
columns: {{id: key, image: image, question: question, answers: answers, keep: [sort]}}
max_new_tokens: 8
metrics: [anls, exact_match]
main: anls
group_by: sort
"""


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_parquet(path, answers=ANSWERS, images=None):
    rows = {
        "key": [f"k{i}" for i in range(len(answers))],
        "image": images or [Pillow.new("L", (10 + i, 20), i) for i in range(len(answers))],
        "question": list(answers),
        "answers": [[answer, answer.upper()] for answer in answers.values()],
        "sort": ["even" if i % 2 == 0 else "odd" for i in range(len(answers))],
    }
    text = Value("string")
    features = {"key": text, "image": Image(), "question": text, "answers": List(text), "sort": text}
    Dataset.from_dict(rows, features=Features(features)).to_parquet(path)


@pytest.fixture
def toy(tmp_path):
    """An eval folder with two benchmarks and a suite, and their data."""
    for folder in ("eval/benchmarks", "eval/suites", "data"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("toy", "toy_too"):
        text = BENCHMARK.format(name=name, data="toy.parquet")
        (tmp_path / f"eval/benchmarks/{name}.yaml").write_text(text)
    (tmp_path / "eval/suites/toys.yaml").write_text(
        "{name: toys, title: Toys, benchmarks: [toy, toy_too], score_name: mean, terms: ["
        "{benchmark: toy, score: anls}, {benchmark: toy_too, score: exact_match, scale: 10}]}"
    )
    write_parquet(tmp_path / "data/toy.parquet")
    return tmp_path


def run(folder, output="out", model=None, **options):
    model = model or FakeModel(GIVEN.__getitem__)
    options = {"batch_size": 2, "progress": False, "benchmarks_dir": folder / "eval"} | options
    options.setdefault("data_root", folder / "data")
    return evaluate(model, FakeProcessor(), options.pop("benchmark", "toy"), output_dir=folder / output, **options)


def lines(folder, output="out"):
    return (folder / output / "toy.jsonl").read_text()


def without_effort(result):
    changing = ("wall_seconds", "created", "resumed_after", "batch_size", "batch_sizes", "environment", "processes")
    return {key: value for key, value in result.items() if key not in changing}


def test_result_holds_scores_and_how_they_were_measured(toy):
    result = run(toy, recipe={"name": "tiny"}, seed=3)
    assert result == json.loads((toy / "out/toy.json").read_text())
    assert result["complete"] and result["num_samples"] == result["planned_samples"] == 5
    assert result["scores"] == pytest.approx({"anls": ANLS, "exact_match": 3 / 5})
    assert result["main_score"] == pytest.approx(100 * ANLS)
    # even: samples 0, 2, 4; odd: samples 1, 3
    assert result["groups"]["even"] == pytest.approx({"num_samples": 3, "anls": 2 / 3, "exact_match": 2 / 3})
    assert result["groups"]["odd"] == pytest.approx({"num_samples": 2, "anls": 1.75 / 2, "exact_match": 1 / 2})
    # alpha, bett, gamma, delta, x and an end token each
    assert result["generated_tokens"] == {"total": 25, "mean": 5.0, "max": 6, "cut_short": 0}
    assert result["model"]["path"] == "fake/model" and result["model"]["attention"] == "sdpa"
    assert (result["model"]["dtype"], result["model"]["device"]) == ("float32", "cpu")
    assert (result["recipe"], result["seed"], result["batch_size"]) == ({"name": "tiny"}, 3, 2)
    assert result["benchmark_definition"]["split"] == "toy"
    assert result["environment"]["versions"]["torch"]


def test_every_sample_is_one_line(toy):
    run(toy)
    first = read_records(toy / "out/toy.jsonl")[0]
    assert first == {
        "index": 0,
        "id": "k0",
        "prompt": "USER: <image>\nq ASSISTANT:",
        "prediction": "alpha",
        "references": ["alpha", "ALPHA"],
        "scores": {"anls": 1.0, "exact_match": 1.0},
        "new_tokens": 6,
        "finished": True,
        "row": {"sort": "even", "image_size": [10, 20]},
    }


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_batch_size_does_not_matter(toy, batch_size):
    two, other = run(toy), run(toy, "other", batch_size=batch_size)
    assert lines(toy) == lines(toy, "other")
    assert without_effort(two) == without_effort(other)


def test_limit_takes_the_first_samples(toy):
    result = run(toy, limit=2)
    assert (result["num_samples"], result["available_samples"], result["limit"]) == (2, 5, 2)
    assert result["scores"]["anls"] == pytest.approx((1 + 0.75) / 2)


def test_an_answer_that_was_cut_is_counted(toy):
    result = run(toy, model=FakeModel(lambda question: "x" * 20))
    assert result["generated_tokens"] == {"total": 40, "mean": 8.0, "max": 8, "cut_short": 5}


@pytest.mark.parametrize("calls_before_death", [1, 2, 3])
def test_resume_after_a_kill_gives_the_same_files(toy, calls_before_death):
    whole = run(toy, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(toy, model=FakeModel(GIVEN.__getitem__, die_at_call=calls_before_death))
    assert json.loads((toy / "out/toy.json").read_text())["complete"] is False
    model = FakeModel(GIVEN.__getitem__)
    resumed = run(toy, model=model, resume=True)
    assert model.calls == 4 - calls_before_death
    assert lines(toy) == lines(toy, "whole")
    assert without_effort(resumed) == without_effort(whole)
    assert resumed["resumed_after"] == 2 * (calls_before_death - 1)


def test_answers_that_another_process_writes_are_left_alone(toy):
    with only_process(toy / "out" / ".toy.lock"), pytest.raises(UserError, match="out: .* is at work there"):
        run(toy)
    assert list((toy / "out").iterdir()) == []
    run(toy)
    assert sorted(path.name for path in (toy / "out").iterdir()) == ["toy.json", "toy.jsonl"]


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_torn_last_line_is_repaired(toy, cut):
    whole = run(toy, "whole")
    run(toy)
    path = toy / "out/toy.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert without_effort(run(toy, resume=True)) == without_effort(whole)
    assert lines(toy) == lines(toy, "whole")


def test_a_damaged_line_in_the_middle_is_refused(toy):
    run(toy)
    path = toy / "out/toy.jsonl"
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join([text[0], "{broken\n", *text[2:]]))
    with pytest.raises(UserError, match=r"toy\.jsonl: line 2 is damaged; restore the file"):
        run(toy, resume=True)


def test_resume_of_a_finished_run_generates_nothing(toy):
    first, model = run(toy), FakeModel(GIVEN.__getitem__)
    again = run(toy, model=model, resume=True, batch_size=3)
    assert model.calls == 0
    assert without_effort(first) == without_effort(again)
    assert (again["wall_seconds"], again["batch_sizes"]) == (first["wall_seconds"], [2])


def test_resume_takes_left_out_defaults_of_the_method_as_written_out(toy):
    first = run(toy, recipe={"method": {"name": "fastv", "layer": 1}})
    again = run(toy, recipe={"method": {"name": "fastv", "layer": 1, "drop": 0.5}}, resume=True)
    assert again["scores"] == first["scores"]
    with pytest.raises(UserError, match="recipe.method.drop was 0.5 and is 0.25"):
        run(toy, recipe={"method": {"name": "fastv", "layer": 1, "drop": 0.25}}, resume=True)


def test_resume_with_another_batch_size_records_both(toy):
    run(toy, limit=2)
    assert run(toy, resume=True, batch_size=1)["batch_sizes"] == [1, 2]


def test_without_resume_a_run_starts_again(toy):
    run(toy)
    model = FakeModel(lambda question: "nothing")
    assert run(toy, model=model)["scores"]["anls"] == 0
    assert model.calls == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": FakeModel(GIVEN.__getitem__, path="fake/other")}, "model.path was 'fake/model' and is 'fake/other'"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"limit": 3}, "it answers sample 4 and the limit is 3"),
        ({"recipe": {"name": "b"}}, "recipe.name was None and is 'b'"),
    ],
)
def test_answers_of_another_run_are_refused(toy, change, reason):
    run(toy)
    with pytest.raises(UserError, match=r"toy\.jsonl: cannot resume: ") as error:
        run(toy, resume=True, **change)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_answers_to_another_prompt_or_to_other_data_are_refused(toy):
    run(toy)
    path = toy / "eval/benchmarks/toy.yaml"
    shipped = path.read_text()
    path.write_text(shipped + "prompt: {suffix: ' Be brief.'}\n")
    with pytest.raises(UserError, match="benchmark_definition.prompt.suffix was '' and is ' Be brief.'"):
        run(toy, resume=True)
    path.write_text(shipped)
    write_parquet(toy / "data/toy.parquet", {**ANSWERS, "q": "another"})
    with pytest.raises(UserError, match="sample 1.references was"):
        run(toy, resume=True)


def test_suite_score_is_the_mean_of_its_terms(toy):
    options = {"data_root": toy / "data", "output_dir": toy / "out", "batch_size": 2, "progress": False}
    summary = evaluate_suite(FakeModel(GIVEN.__getitem__), FakeProcessor(), toy / "eval/suites/toys.yaml", **options)
    assert summary == json.loads((toy / "out/suite-toys.json").read_text())
    assert summary["score"] == pytest.approx((100 * ANLS + 10 * 3 / 5) / 2)
    assert summary["benchmarks"]["toy_too"]["main_score"] == pytest.approx(100 * ANLS)
    model = FakeModel(GIVEN.__getitem__)
    again = evaluate_suite(
        model, FakeProcessor(), "toys", benchmarks_dir=toy / "eval/benchmarks", resume=True, **options
    )
    assert model.calls == 0 and again["score"] == summary["score"]


def test_rescore_equals_the_first_scores(toy):
    result = run(toy)
    benchmark = load_benchmark("toy", toy / "eval")
    again = rescore(toy / "out/toy.jsonl", benchmark)
    assert again == {key: result[key] for key in again}
    before = lines(toy)
    rescore(toy / "out/toy.jsonl", benchmark, write=True)
    assert lines(toy) == before and json.loads((toy / "out/toy.json").read_text()) == result
    benchmark.metrics, benchmark.main, benchmark.group_by = ["containment"], "containment", None
    rescore(toy / "out/toy.jsonl", benchmark, write=True)
    changed = json.loads((toy / "out/toy.json").read_text())
    assert changed["scores"] == {"containment": 0.6} and changed["main"] == "containment"
    assert read_records(toy / "out/toy.jsonl")[0]["scores"] == {"containment": 1.0}


@pytest.mark.parametrize(("name", "field"), [("suite-toys.json", "suite"), ("toy.json", "benchmark")])
def test_a_result_that_names_nothing_known_is_named_itself(toy, name, field):
    options = {"data_root": toy / "data", "output_dir": toy / "out", "progress": False}
    evaluate_suite(FakeModel(GIVEN.__getitem__), FakeProcessor(), toy / "eval/suites/toys.yaml", **options)
    file = toy / "out" / name
    write_json(file, read_json(file) | {field: ""})
    with pytest.raises(UserError, match=f"{name}: unknown {field} ''"):
        rescore_results(toy / "out", benchmarks_dir=toy / "eval")


def test_prompt_prefix_suffix_and_capitals(toy):
    path = toy / "eval/benchmarks/toy.yaml"
    path.write_text(path.read_text() + "prompt: {prefix: 'P ', suffix: ' S', capitalize: true}\n")
    run(toy, model=FakeModel(lambda question: question), limit=2)
    assert read_records(toy / "out/toy.jsonl")[1]["prompt"] == "USER: <image>\nP Question 1 S ASSISTANT:"


def test_nothing_calls_the_network(toy, monkeypatch):
    def refuse(*args):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    run(toy)


def test_a_processor_that_pads_on_the_right_is_refused(toy):
    processor = FakeProcessor()
    processor.padding_side = "right"
    benchmark = load_benchmark("toy", toy / "eval")
    options = {"data_root": toy / "data", "output_dir": toy / "out", "batch_size": 2, "progress": False}
    with pytest.raises(UserError, match="pads on the right"):
        evaluate(FakeModel(GIVEN.__getitem__), processor, benchmark, **options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_new_tokens", "max_new_token", "unknown key 'max_new_token'; did you mean 'max_new_tokens'?"),
        ("id: key", "idd: key", "unknown key 'columns.idd'; did you mean 'id'?"),
        ("title: Toy\n", "", "field 'title' is missing; add it"),
        ("image: image, ", "", "columns: give one of 'image' and 'marked_images', found neither"),
        ("name: toy", "name: tay", "field 'name' is 'tay'; it must equal the file's name"),
        ("max_new_tokens: 8", "max_new_tokens: many", "max_new_tokens: must be an integer, found 'many'"),
        ("max_new_tokens: 8", "max_new_tokens: 0", "max_new_tokens: must be at least 1, found 0"),
        ("[anls, ", "[anlz, ", "field 'metrics': unknown metric 'anlz'; did you mean 'anls'?"),
        ("main: anls", "main: bleu", "field 'main': unknown 'bleu'"),
        ("group_by: sort", "group_by: sorts", "field 'group_by': unknown 'sorts'; did you mean 'sort'?"),
        ("[anls, exact_match]", "[anls, grounding]", "metric 'grounding' needs 'bbox'; add it to columns.keep"),
    ],
)
def test_faulty_benchmark_files_name_file_key_and_remedy(toy, old, new, message):
    path = toy / "eval/benchmarks/toy.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_benchmark("toy", toy / "eval")
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("score_name", "score_nam", "unknown key 'score_nam'; did you mean 'score_name'?"),
        ("scale: 10", "skale: 10", "unknown key 'terms[1].skale'; did you mean 'scale'?"),
        ("benchmark: toy_too", "benchmark: toy_to", "'toy_to' is not among the suite's benchmarks"),
        ("score: anls", "score: anlz", "toy has no score 'anlz'; did you mean 'anls'?"),
    ],
)
def test_faulty_suite_files_name_file_key_and_remedy(toy, old, new, message):
    path = toy / "eval/suites/toys.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_suite("toys", toy / "eval")
    assert message in str(error.value) and str(path) in str(error.value)


def test_unknown_names_and_folders(toy):
    with pytest.raises(UserError, match="unknown benchmark 'tois'; did you mean 'toy'"):
        load_benchmark("tois", toy / "eval")
    with pytest.raises(UserError, match="unknown suite 'synthetik'; did you mean 'synthetic'"):
        load_suite("synthetik")
    with pytest.raises(UserError, match="no such folder; --benchmarks_dir"):
        load_suite("toys", toy / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        load_benchmark(toy / "nowhere.yaml")


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("limit", 0), ("limit", -1)])
def test_numbers_below_one_are_refused(toy, name, value):
    with pytest.raises(UserError, match=f"{name}: must be at least 1, found {value}"):
        run(toy, **{name: value})


def test_missing_and_damaged_data(toy):
    path = toy / "data/toy.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"benchmark toy: .*toy\.parquet: cannot be read"):
        run(toy)
    path.unlink()
    with pytest.raises(UserError, match=r"benchmark toy: .*toy\.parquet does not exist; .*--data_root"):
        run(toy)


def test_missing_column(toy):
    path = toy / "eval/benchmarks/toy.yaml"
    path.write_text(path.read_text().replace("answers: answers", "answers: answer"))
    with pytest.raises(UserError, match="has no column 'answer'; did you mean 'answers'"):
        run(toy)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"bytes": b"broken", "path": None}, "sample 'k1': image cannot be read"),
        (None, "sample 'k1': no image in column 'image'"),
    ],
)
def test_missing_and_damaged_images(toy, image, message):
    write_parquet(toy / "data/toy.parquet", images=[Pillow.new("L", (4, 4)), image, *[Pillow.new("L", (4, 4))] * 3])
    with pytest.raises(UserError, match=message):
        run(toy)


def test_json_data_single_answers_and_several_questions_a_row(toy):
    Pillow.new("RGB", (6, 4)).save(toy / "data/a.png")
    rows = [
        {"key": 7, "image": "a.png", "question": ["one", "two"], "answers": "x", "sort": None},
        {"key": 8, "image": "a.png", "question": ["three"], "answers": "y", "sort": None},
    ]
    (toy / "data/toy.json").write_text("\n".join(map(json.dumps, rows)))
    (toy / "eval/benchmarks/toy.yaml").write_text(BENCHMARK.format(name="toy", data="toy.json"))
    samples = BenchmarkSamples(load_benchmark("toy", toy / "eval"), toy / "data")
    found = [(s.id, s.question, s.references) for s in samples]
    assert found == [("7-0", "one", ["x"]), ("7-1", "two", ["x"]), ("8-0", "three", ["y"])]
    assert samples.images(samples[2])[0].size == (6, 4)
    (toy / "data/a.png").unlink()
    with pytest.raises(UserError, match=r"sample '8-0': image .*a\.png does not exist"):
        samples.images(samples[2])


def test_image_paths_stay_in_the_data_files_folder(toy):
    (toy / "photos").mkdir()
    Pillow.new("RGB", (6, 4)).save(toy / "photos/a.png")
    (toy / "data/linked").symlink_to(toy / "photos")
    paths = ["../photos/a.png", str(toy / "photos/a.png"), "https://a.b/c.png", "linked/a.png"]
    rows = [{"key": i, "image": path, "question": "q", "answers": "x", "sort": None} for i, path in enumerate(paths)]
    (toy / "data/toy.json").write_text("\n".join(map(json.dumps, rows)))
    text = BENCHMARK.format(name="toy", data="toy.json")
    (toy / "eval/benchmarks/toy.yaml").write_text(text)
    strict = load_benchmark("toy", toy / "eval")
    samples = BenchmarkSamples(strict, toy / "data")
    for index, message in enumerate(("lies outside .*allow_outside: true", "lies outside", "URLs are not fetched")):
        with pytest.raises(UserError, match=f"sample '{index}': image .*{message}"):
            samples.images(samples[index])
    assert samples.images(samples[3])[0].size == (6, 4)
    (toy / "eval/benchmarks/toy.yaml").write_text(text + "allow_outside: true\n")
    open_to_all = load_benchmark("toy", toy / "eval")
    samples = BenchmarkSamples(open_to_all, toy / "data")
    assert [samples.images(samples[index])[0].size for index in (0, 1)] == [(6, 4)] * 2
    assert open_to_all.definition() == strict.definition()  # the same is measured


def test_fingerprint_tells_weights_apart():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(300, 5)
    before = describe_model(model)["fingerprint"]
    assert describe_model(model)["fingerprint"] == before
    with torch.no_grad():
        model.weight += 1e-3
    assert describe_model(model)["fingerprint"] != before


def test_environment_is_json():
    record = json.loads(json.dumps(environment()))
    assert set(record["versions"]) >= {"proxyv", "torch", "transformers", "datasets"} and record["python"]
