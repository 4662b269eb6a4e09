"""Runs compared: the statistics by independent ways, the refusals, the flips, the page."""

import base64
import io
import itertools
import json
import re
import shutil
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from proxyv.cli import main
from proxyv.errors import UserError
from proxyv.evaluation.comparing import compare_runs
from proxyv.evaluation.paired import bootstrap_interval, is_binary, mcnemar_p
from proxyv.evaluation.runner import evaluate
from tests.fake_vlm import FakeModel, FakeProcessor

BENCHMARK = {
    "name": "toy",
    "title": "Toy",
    "data": "toy.json",
    "split": "test",
    "columns": {"question": "question", "image": "image", "answers": "answers", "id": "id"},
    "metrics": ["anls", "exact_match"],
    "main": "exact_match",
    "max_new_tokens": 40,
}
RIGHT = "<b>right</b>"
# Of eight samples, what each run has wrong; "near" is what ANLS half accepts.
WRONG = {
    "one": {0: "x", 1: "x"},
    "two": {1: "x", 2: "<script>alert(1)</script>", 3: "x", 4: "x"},
    "same": {0: "x", 1: "y"},
}


def write_data(folder, samples=8, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + samples):
        Image.new("RGB", (640, 20), (30 * (number % 8), 200, 100)).save(folder / f"{number}.png")
        rows.append({"id": f"k{number}", "question": f"q {number}", "image": f"{number}.png", "answers": [RIGHT]})
    (folder / "toy.json").write_text(json.dumps(rows))


def answer(folder, run, wrong, **fields):
    """Evaluate a model that has these samples wrong, into `run`/eval."""
    (folder / "bench/benchmarks").mkdir(parents=True, exist_ok=True)
    (folder / "bench/benchmarks/toy.yaml").write_text(json.dumps({**BENCHMARK, **fields}))
    said = {f"q {number}": wrong.get(number, RIGHT) for number in range(16)}
    evaluate(
        *(FakeModel(said.__getitem__), FakeProcessor(), "toy"),
        data_root=folder / "data",
        output_dir=folder / run / "eval",
        batch_size=8,
        benchmarks_dir=folder / "bench",
        progress=False,
        recipe={"name": run},
    )
    return folder / run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with three runs on the same eight samples."""
    folder = tmp_path_factory.mktemp("compared")
    write_data(folder / "data")
    for name, wrong in WRONG.items():
        answer(folder, name, wrong)
    return folder


@pytest.fixture
def runs(made, tmp_path):
    """The runs' folders by name, and the folder that they lie in; the test's own."""
    folder = shutil.copytree(made, tmp_path / "own")
    return {name: folder / name for name in WRONG} | {"": folder}


# ── statistics ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mcnemar_is_the_two_sided_binomial_test():
    for n in range(13):
        for b in range(n + 1):
            # every way to deal n discordant samples, those at least as uneven counted
            uneven = sum(abs(2 * sum(dealt) - n) >= abs(2 * b - n) for dealt in itertools.product((0, 1), repeat=n))
            assert mcnemar_p(b, n - b) == pytest.approx(float(Fraction(uneven, 2**n)))
    assert mcnemar_p(0, 0) == 1 and mcnemar_p(5, 5) == 1
    assert mcnemar_p(1, 9) == pytest.approx(22 / 1024)  # 2 · (1 + 10) / 2¹⁰
    assert mcnemar_p(3000, 3300) == pytest.approx(mcnemar_p(3300, 3000)) and 1e-5 < mcnemar_p(3000, 3300) < 1e-3
    assert mcnemar_p(0, 5000) == 0


def test_the_bootstrap_interval_is_that_of_plain_resampling():
    draw = np.random.default_rng(5)
    for differences in (draw.choice([-1.0, 0.0, 1.0], 300, p=[0.1, 0.7, 0.2]), draw.normal(0.1, 0.3, 200)):
        plain = [draw.choice(differences, len(differences)).mean() for _ in range(4000)]
        spread = differences.std() / len(differences) ** 0.5
        interval = bootstrap_interval(differences)
        assert interval == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.15 * spread)
        assert interval == bootstrap_interval(differences[::-1])
        assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)
    assert bootstrap_interval([1, 0] * 50) != bootstrap_interval([1, 0] * 500)


def test_only_zeros_and_ones_are_binary():
    assert is_binary([0, 1.0, 1]) and not is_binary([0, 0.5])


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_differences_and_flips(runs):
    comparison = compare_runs([runs["one"], runs["two"] / "eval", runs["same"] / "eval/toy.json"])
    assert [run["name"] for run in comparison["runs"]] == ["one", "two", "toy.json"]
    toy = comparison["benchmarks"]["toy"]
    assert (toy["main"], toy["binary"], toy["averaged"], toy["num_samples"]) == ("exact_match", True, True, 8)
    assert toy["main_scores"] == {"one": 75.0, "two": 50.0, "toy.json": 75.0}
    two, same = toy["pairs"]
    assert (two["difference"], two["higher"], two["lower"]) == (-25.0, 1, 3)
    assert two["mcnemar"] == {"first_only": 3, "other_only": 1, "p": pytest.approx(2 * (1 + 4) / 2**4)}
    assert two["interval"]["low"] < -25 < two["interval"]["high"]
    assert {flip["id"]: (flip["first"]["score"], flip["other"]["score"]) for flip in two["flips"]} == {
        "k0": (0, 1),
        **dict.fromkeys(("k2", "k3", "k4"), (1, 0)),
    }
    assert two["flips"][1]["other"]["prediction"] == "<script>alert(1)</script>"
    assert (same["difference"], same["flips"], same["mcnemar"]["p"]) == (0, [], 1)


def test_scores_between_0_and_1_get_no_mcnemar(tmp_path, capsys):
    write_data(tmp_path / "data")
    one = answer(tmp_path, "one", {0: RIGHT[:-3], 1: "x"}, main="anls")
    two = answer(tmp_path, "two", {1: "x", 2: "x"}, main="anls")
    (pair,) = compare_runs([one, two])["benchmarks"]["toy"]["pairs"]
    assert pair["mcnemar"] is None
    assert [flip["id"] for flip in pair["flips"]] == ["k2", "k0"]  # the largest change first
    # sample 0 gains 3 of 12 characters, sample 2 loses all: (0.25 − 1) / 8
    assert pair["difference"] == pytest.approx(-100 * 0.75 / 8)
    main(["compare", str(one), str(two)])
    assert "no McNemar's test: a sample's anls is not 0 or 1" in capsys.readouterr().out


def test_a_score_of_several_answers_together_gets_no_interval(tmp_path, capsys):
    """MMStar's mean over categories: of eight samples, one is alone in its own."""
    write_data(tmp_path / "data")
    rows = json.loads((tmp_path / "data/toy.json").read_text())
    rows = [{**row, "answers": ["A"], "l2_category": "few" if row["id"] == "k0" else "many"} for row in rows]
    (tmp_path / "data/toy.json").write_text(json.dumps(rows))
    fields = {"metrics": ["mmstar"], "main": "mmstar", "columns": {**BENCHMARK["columns"], "keep": ["l2_category"]}}
    one = answer(tmp_path, "one", dict.fromkeys(range(8), "A") | {0: "B"}, **fields)
    two = answer(tmp_path, "two", dict.fromkeys(range(8), "A") | {1: "B"}, **fields)
    toy = compare_runs([one, two])["benchmarks"]["toy"]
    assert toy["main_scores"] == {"one": 50.0, "two": pytest.approx(100 * (1 + 6 / 7) / 2)}
    assert (toy["averaged"], toy["binary"], toy["score"]) == (False, True, "mmstar")
    (pair,) = toy["pairs"]
    assert (pair["interval"], pair["mcnemar"]["p"], len(pair["flips"])) == (None, 1, 2)
    main(["compare", str(one), str(two)])
    assert "mmstar is made of several answers together: no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path, value, field",
    [
        (("benchmark_definition", "prompt", "suffix"), "?", "benchmark_definition.prompt.suffix was '' and is '?'"),
        (("benchmark_definition", "split"), "val", "benchmark_definition.split was 'test' and is 'val'"),
        (("benchmark_definition", "version"), "2", "benchmark_definition.version was '1' and is '2'"),
        (("benchmark_definition", "max_new_tokens"), 9, "benchmark_definition.max_new_tokens was 40 and is 9"),
        (("metrics_version",), "0", "metrics_version was"),
        (("complete",), False, "field 'complete' is false; finish the evaluation with --resume"),
        (("scores", "exact_match"), 0.9, "scores"),
    ],
)
def test_what_was_not_measured_alike_is_refused_by_the_field(runs, path, value, field):
    file = runs["two"] / "eval/toy.json"
    place = changed = json.loads(file.read_text())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(changed))
    with pytest.raises(UserError) as error:
        compare_runs([runs["one"], runs["two"]])
    assert field in str(error.value) and str(file) in str(error.value)


def test_other_samples_are_refused(runs):
    file = runs["two"] / "eval/toy.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for field, value in (("id", "k9"), ("references", ["other"])):
        other = [{**line, field: value} if place == 2 else line for place, line in enumerate(lines)]
        file.write_text("".join(json.dumps(line) + "\n" for line in other))
        with pytest.raises(UserError, match=rf"toy.json: differs from the first run: sample 3: {field} was "):
            compare_runs([runs["one"], runs["two"]])
    write_data(runs[""] / "data", samples=5)
    answer(runs[""], "two", WRONG["two"])
    with pytest.raises(UserError, match="num_samples was 8 and is 5"):
        compare_runs([runs["one"], runs["two"]])


def test_benchmarks_that_not_all_have_are_named(runs, capsys):
    for ending in ("json", "jsonl"):
        text = (runs["one"] / f"eval/toy.{ending}").read_text()
        (runs["one"] / f"eval/more.{ending}").write_text(text.replace('"benchmark": "toy"', '"benchmark": "more"'))
    comparison = compare_runs([runs["one"], runs["two"]])
    assert comparison["runs"][0]["benchmarks_left_out"] == ["more"] and [*comparison["benchmarks"]] == ["toy"]
    main(["compare", str(runs["one"]), str(runs["two"])])
    assert "one: more left out: not every run has them" in capsys.readouterr().out
    with pytest.raises(UserError, match="no benchmark in common"):
        compare_runs([runs["one"] / "eval/more.json", runs["two"]])
    (runs["one"] / "eval/more.json").write_text((runs["one"] / "eval/toy.json").read_text())
    with pytest.raises(UserError, match="field 'benchmark' is that of"):
        compare_runs([runs["one"], runs["two"]])


def test_wrong_paths(runs):
    for paths, message in (
        ([runs["one"]], "nothing to be compared with"),
        ([runs["one"], runs[""] / "gone"], "gone: no such file or folder"),
        ([runs["one"], runs[""] / "data"], "holds no answers"),
        ([runs["one"], runs["one"]], "is given twice"),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs(paths)
    (runs["two"] / "eval/other.parts").mkdir()
    with pytest.raises(UserError, match="other.parts: an evaluation is under way or was interrupted"):
        compare_runs([runs["one"], runs["two"]])


# ── the command and its page ────────────────────────────────────────────────────────────────────────────────────────


class Page(HTMLParser):
    """Texts of cells, sources of pictures, and every tag that is there."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.pictures, self.open, self.tags = [], [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def run_compare(runs, *arguments):
    page = runs[""] / "compare.html"
    main(["compare", str(runs["one"]), str(runs["two"]), "--page", str(page), *map(str, arguments)])
    return Page(page.read_text(encoding="utf-8")), page.read_text(encoding="utf-8")


def test_the_page_shows_every_flip_with_its_picture(runs, capsys):
    page, text = run_compare(runs, "--data_root", runs[""] / "data", "--benchmarks_dir", runs[""] / "bench")
    rows = [page.cells[place : place + 6] for place in range(0, len(page.cells), 6)]
    assert [row[1].split("\n")[0] for row in rows] == ["k0", "k2", "k3", "k4"]
    assert rows[1][4] == "<b>right</b>\n(1)" and rows[1][5] == "<script>alert(1)</script>\n(0)"
    assert rows[1][2] == "USER: <image>\nq 2 ASSISTANT:" and rows[1][3] == RIGHT
    assert not page.tags & {"script", "b", "image", "link"} and "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:image/jpeg;base64,)", text)
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in page.pictures]
    assert [picture.size for picture in pictures] == [(320, 10)] * 4
    reds = [picture.getpixel((5, 5))[0] for picture in pictures]
    assert reds == pytest.approx([0, 60, 90, 120], abs=6)  # the picture of this very sample
    out = capsys.readouterr().out
    assert "toy: one → two: exact_match 75.00 → 50.00, difference -25.00 (95 % interval" in out
    assert "1 samples higher, 3 lower of 8; McNemar's exact test p = 0.62" in out
    assert "k2: accepted '<b>right</b>'; one: '<b>right</b>' (1); two: '<script>alert(1)</script>' (0)" in out


def test_without_data_the_page_says_so(runs, capsys):
    page, _ = run_compare(runs)
    assert all("give its folder with --data_root" in cell for cell in page.cells[::6]) and not page.pictures
    assert "no pictures of toy: no pictures without the benchmark's data" in capsys.readouterr().out
    page, _ = run_compare(runs, "--data_root", runs[""] / "gone", "--benchmarks_dir", runs[""] / "bench")
    assert all("toy.json does not exist" in cell for cell in page.cells[::6])
    write_data(runs[""] / "other", first=8)
    page, _ = run_compare(runs, "--data_root", runs[""] / "other", "--benchmarks_dir", runs[""] / "bench")
    assert all("holds another sample in this place" in cell for cell in page.cells[::6]) and not page.pictures


def test_json_and_wrong_options(runs, capsys):
    main(["compare", str(runs["one"]), str(runs["two"]), "--json"])
    assert json.loads(capsys.readouterr().out) == compare_runs([runs["one"], runs["two"]])
    main(["compare", str(runs["one"]), str(runs["two"]), "--flips", "1"])
    assert "  … and 3 more; see --flips, --page or --json" in capsys.readouterr().out
    for options, message in ((["--flips", "-1"], "--flips: -1"), (["--data_root", "x"], "--data_root: is for the pic")):
        with pytest.raises(SystemExit) as stop:
            main(["compare", str(runs["one"]), str(runs["two"]), *options])
        assert stop.value.code == 2 and message in capsys.readouterr().err
