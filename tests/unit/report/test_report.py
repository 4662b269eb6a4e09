import csv
import json

import pytest
from PIL import Image

from proxyv.errors import UserError
from proxyv.report.make import make_report, write_into
from proxyv.report.runs import find_runs
from proxyv.report.tables import tabulate, to_markdown

DEFINITION = {"split": "test", "version": "1", "prompt": {"prefix": "", "suffix": "\nBe brief.", "capitalize": False}}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def benchmark(score, recipe=None, samples=10, complete=True):
    return {
        "kind": "benchmark",
        "benchmark": "docs",
        "title": "Documents",
        "main": "anls",
        "main_score": score,
        "num_samples": samples,
        "complete": complete,
        "recipe": {"name": recipe} if recipe else {},
        "metrics_version": "1",
        "benchmark_definition": DEFINITION,
    }


def suite(score, recipe=None):
    parts = {"docs": benchmark(score)}
    head = {"kind": "suite", "suite": "toys", "title": "Toys", "score_name": "mean ANLS", "score": score - 1}
    return head | {"benchmarks": parts, "complete": True, "recipe": {"name": recipe}, "metrics_version": "1"}


@pytest.fixture
def runs(tmp_path):
    """Two seeds of `full`, one of `proxyv` with costs, one run with nothing but an unfinished result."""
    for seed, score in (("a", 80.0), ("b", 83.0)):
        write(tmp_path / f"full-{seed}/eval/docs.json", benchmark(score, "full"))
        write(tmp_path / f"full-{seed}/eval/suite-toys.json", suite(score, "full"))
        write(tmp_path / f"full-{seed}/profile.json", {"decoder_flops": 4_000_000_000})
    write(tmp_path / "proxyv/eval/suite-toys.json", suite(81.0, "tiny-proxyv"))
    write(
        tmp_path / "proxyv/profile.json",
        {"decoder_flops": 3_000_000_000, "decoder_flops_reduction": 0.25, "parameters": {"total": 12}},
    )
    write(tmp_path / "proxyv/bench.json", {"prefill_ms": {"median": 6.5}, "prefill_time_ratio": {"median": 0.8}})
    write(tmp_path / "proxyv/checkpoint/tokenizer.json", {"kind": "benchmark"})  # not a result
    write(tmp_path / "cut/eval/docs.json", benchmark(99.0, complete=False))
    return tmp_path


def test_markdown_table(runs):
    # mean of 80 and 83 is 81.5, sample standard deviation 3 / sqrt(2) = 2.12
    table = to_markdown(tabulate(find_runs([runs])))
    assert table.splitlines() == [
        "| recipe | runs | Documents (anls) | Toys: mean ANLS | decoder GFLOPs | FLOPs reduction % "
        "| prefill time reduction % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| cut | 1 | – | – | – | – | – |",
        "| full | 2 | 81.5 ± 2.1 | 80.5 ± 2.1 | 4.00 | – | – |",
        "| tiny-proxyv | 1 | 81.0 | 80.0 | 3.00 | 25.0 | 20.0 |",
        "",
        "- ± is the standard deviation over runs.",
        "- Documents (anls): 10 samples of test, prompt: suffix '\\nBe brief.', "
        "benchmark version 1, metrics version 1.",
        "- cut: docs.json is unfinished and left out.",
    ]


def test_files_are_written_and_the_numbers_are_unrounded(runs, tmp_path):
    markdown, numbers, plot = make_report([runs], tmp_path / "report")
    assert markdown.read_text().startswith("| recipe |") and "](report.png)" in markdown.read_text()
    rows = {row["recipe"]: row for row in csv.DictReader(numbers.open(encoding="utf-8"))}
    assert float(rows["full"]["Documents (anls) spread"]) == pytest.approx(4.5**0.5)
    assert rows["full"]["Documents (anls) runs"] == "2" and rows["full"]["prefill time reduction % mean"] == ""
    assert float(rows["tiny-proxyv"]["prefill time reduction % mean"]) == pytest.approx(20)
    with Image.open(plot) as image:
        assert image.format == "PNG" and image.width > 2 * image.height


def test_folders_files_and_repeats_are_the_same_runs(runs):
    paths = [runs / "proxyv", runs / "proxyv/eval/suite-toys.json", runs / "proxyv/bench.json"]
    assert find_runs(paths) == find_runs([runs / "proxyv"])
    (run,) = find_runs([runs / "proxyv/eval/suite-toys.json"])
    assert run.recipe == "tiny-proxyv" and run.scores == {"Documents (anls)": 81.0} and not run.costs


def test_recipe_name_falls_back_to_recipe_file_then_folder(tmp_path):
    write(tmp_path / "one/eval/docs.json", benchmark(1.0))
    write(tmp_path / "two/eval/docs.json", benchmark(2.0))
    (tmp_path / "two/recipe.yaml").write_text("name: second\n")
    assert [run.recipe for run in find_runs([tmp_path])] == ["one", "second"]


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    write(tmp_path / "one/eval/docs.json", benchmark(1.0, samples=10))
    write(tmp_path / "two/eval/docs.json", benchmark(2.0, samples=20))
    assert "Documents (anls): runs differ, their scores are not comparable" in to_markdown(
        tabulate(find_runs([tmp_path]))
    )


def test_a_report_without_costs_has_an_empty_plot(tmp_path):
    write(tmp_path / "run/eval/docs.json", benchmark(1.0))
    assert all(path.stat().st_size for path in make_report([tmp_path], tmp_path / "out"))


def test_wrong_paths(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder; give run folders"):
        make_report([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(UserError, match="no results here; run `proxyv eval` first"):
        make_report([tmp_path], tmp_path)
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(UserError, match=r"profile\.json: not valid JSON"):
        make_report([tmp_path], tmp_path)


def test_a_table_is_updated_inside_a_document(runs, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("Before\n<!-- table: toys (how) -->\nold\n<!-- end of table -->\nAfter\n")
    for _ in range(2):  # renewing twice changes nothing more
        write_into(document, "toys", [runs])
        text = document.read_text()
        assert text.startswith("Before\n<!-- table: toys (how) -->\n\n| recipe |") and text.endswith("-->\nAfter\n")
        assert "old" not in text and text.count("| recipe |") == 1
    with pytest.raises(UserError, match="has no place '<!-- table: other"):
        write_into(document, "other", [runs])


def test_published_figures_stand_beside_ours(tmp_path):
    write(tmp_path / "vicuna-7b-proxyv-l12/profile.json", {"decoder_flops": 1e12, "decoder_flops_reduction": 0.5})
    write(tmp_path / "vicuna-7b-proxyv-l13/profile.json", {"decoder_flops": 1e12, "decoder_flops_reduction": 0.5})
    rows = {row.recipe: row.figures for row in tabulate(find_runs([tmp_path])).rows}
    assert rows["vicuna-7b-proxyv-l12"]["published FLOPs reduction %"].mean == 46
    assert "published FLOPs reduction %" not in rows["vicuna-7b-proxyv-l13"]
