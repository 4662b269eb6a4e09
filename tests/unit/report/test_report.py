import csv
import json
import re

import pytest
from PIL import Image

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import load_benchmark, load_suite
from proxyv.report.make import make_report, write_into
from proxyv.report.paper_tables import PAPER_TABLES, paper_tables
from proxyv.report.published import published
from proxyv.report.runs import find_runs
from proxyv.report.tables import tabulate, to_latex, to_markdown

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
        "scale": 100.0,
        "scores": {"anls": score / 100},
        "num_samples": samples,
        "complete": complete,
        "recipe": {"name": recipe} if recipe else {},
        "metrics_version": "1",
        "benchmark_definition": DEFINITION,
    }


def suite(score, recipe=None):
    parts = {"docs": benchmark(score)}
    terms = [{"benchmark": "docs", "score": "anls", "scale": 90.0, "value": score * 0.9}]
    head = {"kind": "suite", "suite": "toys", "title": "Toys", "score_name": "mean ANLS", "score": score * 0.9}
    head |= {"terms": terms, "benchmarks": parts, "complete": True}
    return head | {"recipe": {"name": recipe}, "metrics_version": "1"}


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
    # mean of 80 and 83 is 81.5, sample standard deviation 3 / sqrt(2) = 2.12; the suite's score is nine tenths of that
    table = to_markdown(tabulate(find_runs([runs])))
    assert table.splitlines() == [
        "| recipe | runs | Documents (anls) | Toys: mean ANLS | decoder GFLOPs | FLOPs reduction % "
        "| prefill time reduction % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| cut | 1 | – | – | – | – | – |",
        "| full | 2 | 81.5 ± 2.1 | 73.3 ± 1.9 | 4.00 | – | – |",
        "| tiny-proxyv | 1 | 81.0 | 72.9 | 3.00 | 25.0 | 20.0 |",
        "",
        "- ± is the standard deviation over runs.",
        "- Documents (anls): 10 samples of test, prompt: suffix '\\nBe brief.', "
        "benchmark version 1, metrics version 1.",
        "- cut: docs.json is unfinished and left out.",
    ]


def test_files_are_written_and_the_numbers_are_unrounded(runs, tmp_path):
    markdown, numbers, _, plot = make_report([runs], tmp_path / "report")
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


@pytest.mark.parametrize("field", ["split", "prompt", "version", "metrics_version", "samples"])
def test_runs_that_measured_differently_never_share_a_column(tmp_path, field):
    write(tmp_path / "one/eval/suite-toys.json", suite(80.0, "same"))
    write(tmp_path / "two/eval/suite-toys.json", other := suite(90.0, "same"))
    write(tmp_path / "three/eval/suite-toys.json", suite(70.0, "same"))
    part = other["benchmarks"]["docs"]
    if field == "samples":
        part["num_samples"] = 20
    elif field == "metrics_version":
        other[field] = "2"
    else:
        part["benchmark_definition"] = DEFINITION | {field: {"suffix": "?"} if field == "prompt" else "x"}
    write(tmp_path / "two/eval/suite-toys.json", other)
    table = tabulate(find_runs([tmp_path / name for name in ("one", "two", "three")]))
    docs, toys = "Documents (anls)", "Toys: mean ANLS"
    assert table.columns == [f"{docs} #1", f"{docs} #2", f"{toys} #1", f"{toys} #2"]
    (row,) = table.rows  # runs are sorted by folder: one, three, two
    assert {name: (f.mean, f.runs) for name, f in row.figures.items()} == {
        f"{docs} #1": (75.0, 2),
        f"{docs} #2": (90.0, 1),
        f"{toys} #1": (67.5, 2),
        f"{toys} #2": (81.0, 1),
    }
    shown = to_markdown(table)
    assert "Columns with # are not comparable with each other" in shown
    assert len(set(re.findall(r"(?m)^- Documents \(anls\) #\d: (.*)$", shown))) == 2


def test_two_benchmarks_of_one_title_are_refused(tmp_path):
    write(tmp_path / "eval/docs.json", benchmark(1.0))
    write(tmp_path / "eval/more.json", benchmark(1.0) | {"benchmark": "more"})
    with pytest.raises(UserError, match=r"more.json: field 'title': two benchmarks are called 'Documents \(anls\)'"):
        find_runs([tmp_path])


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


def answers(*scores):
    return "".join(json.dumps({"id": str(i), "scores": {"anls": score}}) + "\n" for i, score in enumerate(scores))


# What is edited in a file that was right, and what the one line says.
EDITS = {
    "docs.json": (
        (("main_score",), 101.0, "field 'main_score' is 101.0 and contradicts its scores, which make 80"),
        (("scores", "anls"), 1.01, "field 'scores.anls' is 1.01 and must lie between 0 and 1"),
        (("scores", "anls"), -0.1, "field 'scores.anls' is -0.1 and must lie between 0 and 1"),
        (("main",), "bleu", "field 'main' is 'bleu' and is none of its scores (anls)"),
        (("scores", "other"), 0.5, "field 'scores.other' is 0.5 and has no counterpart in the answers beside it"),
        (("num_samples",), 0, "field 'num_samples' is 0 and must be 1 or more"),
        (("num_samples",), 3, "field 'num_samples' is 3 and contradicts the 2 answers beside it"),
        (("scale",), 99.0, "field 'main_score' is 80.0 and contradicts its scores, which make 79.2"),
    ),
    "suite-toys.json": (
        (("score",), 101.0, "field 'score' is 101.0 and contradicts its terms, which make 72"),
        (("terms", 0, "value"), 73.0, "field 'terms.0.value' is 73.0 and contradicts its benchmark, which make 72"),
        (("terms", 0, "score"), "bleu", "field 'terms.0.score' is 'bleu' and is no score of 'docs'"),
        (("terms", 0, "benchmark"), "gone", "is no score of 'gone'"),
        (("terms",), [], "field 'terms' is [] and must hold one"),
        (("benchmarks", "docs", "main_score"), 81.0, "field 'benchmarks.docs.main_score' is 81.0 and contradicts its"),
        (("benchmarks", "docs", "num_samples"), 3, "is 3 and contradicts 2 in "),
        (("benchmarks", "docs", "benchmark_definition", "split"), "train", "contradicts {'split': 'test'"),
    ),
}


def test_edited_scores_are_refused_in_one_line(tmp_path):
    def write_run():
        write(tmp_path / "eval/docs.json", benchmark(80.0, samples=2))
        (tmp_path / "eval/docs.jsonl").write_text(answers(0.7, 0.9))
        whole = suite(80.0)
        whole["benchmarks"]["docs"]["num_samples"] = 2
        write(tmp_path / "eval/suite-toys.json", whole)

    write_run()
    assert find_runs([tmp_path])[0].scores == {"Documents (anls)": 80.0}
    for name, edits in EDITS.items():
        for path, value, message in edits:
            write_run()
            place = edited = json.loads((tmp_path / "eval" / name).read_text())
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            write(tmp_path / "eval" / name, edited)
            with pytest.raises(UserError) as error:
                find_runs([tmp_path])
            assert message in str(error.value) and f"eval/{name}: " in str(error.value)
    write_run()
    (tmp_path / "eval/docs.jsonl").write_text(answers(0.8, 0.9))  # an answer's own score
    with pytest.raises(UserError, match="'scores.anls' is 0.8 and contradicts the answers beside it, which make 0.85"):
        find_runs([tmp_path])
    # made of several answers together
    write(tmp_path / "eval/docs.json", benchmark(80.0, samples=2) | {"totals": ["anls"]})
    assert find_runs([tmp_path / "eval/docs.json"])
    # both at once, in a way that agrees within the files alone
    write(tmp_path / "eval/docs.json", benchmark(85.0, samples=2))
    with pytest.raises(
        UserError, match=r"suite-toys.json: field 'benchmarks.docs.main_score' is 80.0 and contradicts 85"
    ):
        find_runs([tmp_path])


def paper_run(folder, recipe, values, limit=None, **changes):
    """A run with finished benchmarks; `values` by name: main score, or shares by score name."""
    for name, value in values.items():
        scores = value if isinstance(value, dict) else {"main": value / 100}
        main = next(iter(scores))
        result = benchmark(100 * scores[main], recipe)
        result |= {"benchmark": name, "title": name, "main": main, "scores": scores, "limit": limit} | changes
        write(folder / f"eval/{name}.json", result)


FINE = {"docvqa_val": 68.0, "chartqa": 60.0, "infovqa_val": 35.0, "textvqa_val": 62.0, "ocrbench": 51.0}


def test_the_papers_tables_show_ours_beside_the_published(tmp_path):
    recipe = "vicuna-7b-proxyv-l12"
    paper_run(tmp_path / "a", recipe, {**FINE, "mmstar": 40.0, "refcoco_val": 80.0})
    paper_run(tmp_path / "b", recipe, {**FINE, "docvqa_val": 70.0})
    paper_run(
        tmp_path / "c",
        "vicuna-7b-pyramiddrop",
        {"ccpdf_parsing": {"bleu": 0.72, "edit_distance": 0.17}, "chartqa": 58.0},
    )
    paper_run(tmp_path / "d", "of-mine", {"docvqa_val": 50.0})
    paper_run(tmp_path / "e", "cut", {"docvqa_val": 99.0}, limit=2)
    written = make_report([tmp_path / name for name in "abcde"], tmp_path / "out")
    names = ("report", "score_fine", "grounding", "general", "parsing")
    assert {path.name for path in written} == {f"{n}.{e}" for n in names for e in ("md", "csv", "tex")} | {"report.png"}
    # mean of 68, 60, 35, 62, 51 is 55.2, with 70 for 68 it is 55.6
    fine = (tmp_path / "out/score_fine.md").read_text().splitlines()
    assert fine[0] == (
        "| recipe | runs | DocVQA | DocVQA published | ChartQA | ChartQA published | InfoVQA | InfoVQA published "
        "| TextVQA | TextVQA published | OCRBench/10 | OCRBench/10 published | Score_fine | Score_fine published |"
    )
    assert fine[2:6] == [
        "| vicuna-7b-proxyv-l12 | 2 | 69.00 ± 1.41 | 68.18 | 60.00 ± 0.00 | 60.16 | 35.00 ± 0.00 | 34.77 "
        "| 62.00 ± 0.00 | 61.69 | 51.00 ± 0.00 | 51.00 | 55.40 ± 0.28 | 55.16 |",
        "| vicuna-7b-pyramiddrop | 1 | – | 68.50 | 58.00 | 58.88 | – | 34.43 | – | 61.84 | – | 49.50 | – | 54.63 |",
        "| of-mine | 1 | 50.00 | – | – | – | – | – | – | – | – | – | – | – |",
        "",
    ]
    assert "- cut: docvqa_val is left out: 10 samples of test are not all (`--limit`)." in fine
    assert any(line.startswith("- Published: arXiv 2505.15816") for line in fine)
    parsing = (tmp_path / "out/parsing.md").read_text()
    assert "| vicuna-7b-pyramiddrop | 1 | 0.7200 | 0.7261 | 0.1700 | 0.1702 |" in parsing
    assert "which split" in (tmp_path / "out/grounding.md").read_text()
    general = list(csv.DictReader((tmp_path / "out/general.csv").open(encoding="utf-8")))
    assert [row["recipe"] for row in general] == ["vicuna-7b-proxyv-l12"]
    assert (general[0]["MMStar mean"], general[0]["MMStar published mean"]) == ("40.0", "38.35")
    assert (general[0]["RefCOCO val mean"], general[0]["RefCOCO val published mean"]) == ("80.0", "76.76")


def test_the_papers_mean_is_never_made_of_different_ways_of_measuring(tmp_path):
    recipe = "vicuna-7b-full"
    paper_run(tmp_path / "a", recipe, FINE)
    paper_run(tmp_path / "b", recipe, {**FINE, "chartqa": 70.0}, metrics_version="2")
    (table,) = [table for name, table in paper_tables(find_runs([tmp_path])).items() if name == "score_fine"]
    (row,) = table.rows
    assert row.figures["Score_fine #1"].mean == pytest.approx(55.2)
    assert row.figures["Score_fine #2"].mean == pytest.approx(57.2) and "Score_fine" not in row.figures
    assert [name for name in table.columns if "Score" in name] == [
        *("Score_fine #1", "Score_fine #2", "Score_fine published")
    ]


def test_one_of_the_papers_tables_goes_into_a_document(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text("<!-- table: fine (how) -->\n<!-- end of table -->\n")
    paper_run(tmp_path / "run", "vicuna-7b-full", {"chartqa": 60.0})
    write_into(document, "fine", [tmp_path / "run"], "score_fine")
    assert "| vicuna-7b-full | 1 | 60.00 | 59.64 |" in document.read_text()
    with pytest.raises(UserError, match="no whole benchmark of the table 'general'; evaluate"):
        write_into(document, "fine", [tmp_path / "run"], "general")


def test_latex(tmp_path):
    write(tmp_path / "a/eval/docs.json", benchmark(80.0, "50%_of\\{x}&#$~^"))
    write(tmp_path / "b/eval/docs.json", benchmark(84.0, "50%_of\\{x}&#$~^"))
    write(tmp_path / "a/profile.json", {"decoder_flops": 4_000_000_000})
    assert to_latex(tabulate(find_runs([tmp_path]))).splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"recipe & runs & Documents (anls) & decoder GFLOPs \\",
        r"\midrule",
        r"50\%\_of\textbackslash{}\{x\}\&\#\$\textasciitilde{}\textasciicircum{} & 2 & 82.0 $\pm$ 2.8 & 4.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
        "% ± is the standard deviation over runs.",
        "% Documents (anls): 10 samples of test, prompt: suffix '\\nBe brief.', benchmark version 1, "
        "metrics version 1.",
    ]


def test_the_papers_tables_name_what_there_is():
    """Benchmarks, scores and published keys; and Score_fine is the mean of what its suite is the mean of."""
    for table in PAPER_TABLES:
        section = published()[table.section]
        keys = {key for row in (section if isinstance(section, list) else section.values()) for key in row}
        for column in table.columns:
            benchmark = load_benchmark(column.benchmark)
            assert column.score is None or column.score in benchmark.score_names
            assert column.key is None or column.key in keys
        assert table.mean is None or table.mean[1] in keys
    fine, suite = PAPER_TABLES[0], load_suite("score_fine")
    assert [column.benchmark for column in fine.columns] == [term.benchmark for term in suite.terms]
    assert [(term.score, term.scale) for term in suite.terms] == [
        (of.main, of.scale) for of in (load_benchmark(column.benchmark) for column in fine.columns)
    ]
    for name in ("grounding", "general", "parsing"):
        (table,) = (table for table in PAPER_TABLES if table.name == name)
        assert {column.benchmark for column in table.columns} == set(load_suite(name).benchmarks)
