"""Where a benchmark's rows come from, and what is made of one: files, images, options, contexts, answers."""

import json

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import Benchmark
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.evaluation.tables import fits, value_at
from proxyv.schema import from_mapping

COLUMNS = {"question": "question", "answers": "answer", "image": "image"}


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def benchmark(data, columns=None, **fields):
    plain = {"name": "toy", "title": "Toy", "split": "test", "metrics": ["anls"], "main": "anls", "max_new_tokens": 8}
    return from_mapping(Benchmark, {**plain, "data": data, "columns": columns or COLUMNS, **fields})


def row(number=0, **values):
    return {"question": f"q{number}", "answer": "a", "image": f"{number}.png", **values}


def write(path, *rows):
    """JSON lines, with a picture of (1 + number) by 4 pixels for each number from 0 to 4 beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    for number in range(5):
        Pillow.new("RGB", (1 + number, 4)).save(path.parent / f"{number}.png")


def refused(tmp_path, *arguments, **fields):
    with pytest.raises(UserError) as error:
        BenchmarkSamples(benchmark(*arguments, **fields), tmp_path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("data", ["x", "x/test-*.jsonl", "*/*.jsonl"])
def test_shards_are_read_in_the_order_of_their_names(tmp_path, data):
    for shard in (1, 0, 2):
        write(tmp_path / f"x/test-0000{shard}-of-00003.jsonl", row(shard))
    samples = BenchmarkSamples(benchmark(data), tmp_path)
    assert [sample.question for sample in samples] == ["q0", "q1", "q2"]


def test_a_missing_shard_is_named(tmp_path):
    for shard in (0, 2):
        write(tmp_path / f"x/test-0000{shard}-of-00003.jsonl", row(shard))
    assert "2 of 3 files 'test-…' are there; get the others" in refused(tmp_path, "x/test-*.jsonl")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "x/* does not exist; make or download the data, or give its folder with --data_root"),
        (["a.json", "b.parquet"], "use .parquet, .json or .jsonl files of one kind, found .json, .parquet"),
        (["a.csv"], "use .parquet, .json or .jsonl files of one kind, found .csv"),
    ],
)
def test_files_that_are_none_or_not_alike_are_refused(tmp_path, files, said):
    (tmp_path / "x").mkdir()
    for file in files:
        (tmp_path / "x" / file).touch()
    assert said in refused(tmp_path, "x/*")


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    assert "holds no .parquet, .json or .jsonl file" in refused(tmp_path, "x")


def test_rows_are_picked_by_patterns(tmp_path):
    rows = [
        row(n, kind=kind, turns=[{"says": says}]) for n, (kind, says) in enumerate(zip("aabb", "xyxy", strict=True))
    ]
    write(tmp_path / "x.jsonl", *rows)
    columns = {**COLUMNS, "keep": ["turns.0.says"]}
    found = BenchmarkSamples(benchmark("x.jsonl", columns, only={"kind": ["b"], "turns.0.says": ["!x*"]}), tmp_path)
    assert [(sample.question, sample.kept) for sample in found] == [("q3", {"turns.0.says": "y"})]
    assert "no samples" in refused(tmp_path, "x.jsonl", only={"kind": ["c"]})
    assert "has no column 'kin'; did you mean 'kind'?" in refused(tmp_path, "x.jsonl", only={"kin": ["c"]})


def test_patterns_and_ways_into_values():
    assert fits("CCpdf/1.png", ["*CCpdf*"]) and fits(["a", "CCpdf"], ["CC*"]) and not fits("x", ["*CCpdf*"])
    assert fits(7, ["7"]) and fits("a", ["!b*"]) and not fits("ba", ["!b*"]) and not fits("ba", ["*a", "!b*"])
    value = {"a": [{"b": 1}], "a.0.b": 2}
    assert value_at(value, "a.0.b") == 2 and value_at({"a": [{"b": 1}]}, "a.0.b") == 1
    assert value_at(value, "a.1.b") is None and value_at(value, "a.x") is None and value_at(value, "c.d") is None


def test_a_list_of_images_goes_with_the_question_in_order(tmp_path):
    write(tmp_path / "x.jsonl", row(image=["2.png", "0.png"]), row(image=["1.png"]))
    samples = BenchmarkSamples(benchmark("x.jsonl"), tmp_path)
    assert [[image.width for image in samples.images(sample)] for sample in samples] == [[3, 1], [2]]
    assert [samples.count_images(sample) for sample in samples] == [2, 1]
    write(tmp_path / "y.jsonl", row(image=["2.png"]), row(image=[]))
    assert "sample '1': no image in column 'image'; leave the row out" in refused(tmp_path, "y.jsonl")


def test_embedded_lists_of_images(tmp_path):
    images = [[Pillow.new("RGB", (2, 2)), Pillow.new("L", (3, 2))], [Pillow.new("RGB", (4, 2))]]
    rows = {"question": ["a", "b"], "answer": ["x", "y"], "image": images}
    features = {"question": Value("string"), "answer": Value("string"), "image": List(Image())}
    Dataset.from_dict(rows, features=Features(features)).to_parquet(tmp_path / "x.parquet")
    samples = BenchmarkSamples(benchmark("x.parquet"), tmp_path)
    assert [[(i.width, i.mode) for i in samples.images(one)] for one in samples] == [
        [(2, "RGB"), (3, "RGB")],
        [(4, "RGB")],
    ]


def test_images_that_the_text_marks(tmp_path):
    columns = {"question": "question", "answers": "answer", "marked_images": {"<1>": "one", "<2>": "two"}}
    pictures = {"one": "0.png", "two": "1.png"}
    write(tmp_path / "x.jsonl", row(question="<2> or <1>?", **pictures), row(question="<2>?", **pictures))
    samples = BenchmarkSamples(benchmark("x.jsonl", columns), tmp_path)
    assert [[image.width for image in samples.images(sample)] for sample in samples] == [[1, 2], [2]]
    write(tmp_path / "y.jsonl", row(question="<2>", **{**pictures, "two": None}))
    assert "sample '0': no image in column 'two'" in refused(tmp_path, "y.jsonl", columns)
    write(tmp_path / "z.jsonl", row(question="which?", **pictures))
    assert "no image: the text has none of the marks <1>, <2>" in refused(tmp_path, "z.jsonl", columns)


def test_images_in_files_of_their_own(tmp_path):
    write(tmp_path / "apart/x.jsonl", {"key": "b", "photo": "1.png"}, {"key": "a", "photo": "0.png"})
    write(tmp_path / "x.jsonl", row(image="a"), row(image="b"), row(image="a"))
    images = {"data": "apart/*.jsonl", "id": "key", "image": "photo"}
    samples = BenchmarkSamples(benchmark("x.jsonl", images=images), tmp_path)
    assert [samples.images(sample)[0].width for sample in samples] == [1, 2, 1]
    write(tmp_path / "y.jsonl", row(image="c"))
    assert "sample '0': there is no image 'c'" in refused(tmp_path, "y.jsonl", images=images)
    assert "has no column 'kex'; did you mean 'key'?" in refused(tmp_path, "x.jsonl", images={**images, "id": "kex"})
    assert "none.jsonl does not exist" in refused(tmp_path, "x.jsonl", images={**images, "data": "none.jsonl"})


CHOICES = {
    "columns": {**COLUMNS, "options": ["options"], "context": "hint", "answers_are": "option_numbers"},
    "prompt": {"prefix": "P ", "context": "Hint: {context}. ", "options": ":\n", "suffix": "\nS", "open_suffix": "\nO"},
}


def test_options_contexts_and_numbered_answers(tmp_path):
    hints = ("look", "nan", "", None)
    write(tmp_path / "x.jsonl", *(row(n, options=["dog", "cat"], hint=hint, answer=1) for n, hint in enumerate(hints)))
    found = list(BenchmarkSamples(benchmark("x.jsonl", **CHOICES), tmp_path))
    assert found[0].text == "P Hint: look. q0:\nA. dog\nB. cat\nS"
    assert [sample.text for sample in found[1:]] == [f"P q{n}:\nA. dog\nB. cat\nS" for n in (1, 2, 3)]
    assert (found[0].references, found[0].kept) == (["B"], {"options": {"A": "dog", "B": "cat"}})


def test_options_that_a_text_spells_and_rows_without(tmp_path):
    columns = {**COLUMNS, "options": ["options"]}
    write(tmp_path / "x.jsonl", row(options="['dog', \"it's\"]"), row(options="[]"))
    samples = BenchmarkSamples(benchmark("x.jsonl", columns, prompt={"options": "\n", "open_suffix": " O"}), tmp_path)
    assert [sample.text for sample in samples] == ["q0\nA. dog\nB. it's", "q0 O"]


def test_options_in_columns_leave_out_what_is_absent(tmp_path):
    columns = {**COLUMNS, "options": ["A", "B", "C", "D"]}
    write(tmp_path / "x.jsonl", row(A="dog", B="nan", C="cat", D=None))
    (sample,) = BenchmarkSamples(benchmark("x.jsonl", columns, prompt={"options": "\n"}), tmp_path)
    assert sample.text == "q0\nA. dog\nC. cat"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"options": "dog or cat", "answer": 0}, "column 'options' holds 'dog or cat' and must hold a list of options"),
        ({"options": ["dog"], "answer": 1}, "column 'answer' holds [1] and must hold an option's number, from 0 to 0"),
        ({"options": ["dog"], "answer": "A"}, "column 'answer' holds ['A'] and must hold an option's number"),
        ({"options": ["dog"], "answer": -1}, "column 'answer' holds [-1] and must hold an option's number"),
    ],
)
def test_options_and_answers_that_do_not_fit_are_refused(tmp_path, values, said):
    write(tmp_path / "x.jsonl", row(hint="h", **values))
    assert said in refused(tmp_path, "x.jsonl", **CHOICES)


def test_what_the_prompt_cuts_out(tmp_path):
    prompt = {"strip": True, "remove": " Please.", "capitalize": True}
    write(tmp_path / "x.jsonl", row(question="  is THIS it? Please. "))
    (sample,) = BenchmarkSamples(benchmark("x.jsonl", prompt=prompt), tmp_path)
    assert (sample.question, sample.text) == ("  is THIS it? Please. ", "Is this it?")
