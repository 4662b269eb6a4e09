"""`check-data` and `show-sample`."""

import json

import pytest

from proxyv.config import DataSpec
from proxyv.data import check_data, show_sample
from proxyv.errors import UserError
from tests.small_runs import page_recipe, record, record_recipe, save_image, stage


def test_check_counts_every_source(tmp_path):
    recipe = page_recipe(tmp_path, text=stage(["text"]), both=stage(["captions", "text"], max_length=100))
    report = check_data(recipe)
    assert [(source.stage, source.data) for source in report.sources] == [
        ("text", "text"),
        ("both", "captions"),
        ("both", "text"),
    ]
    assert report.problems == []
    text, captions, short = report.sources
    assert (text.samples, text.usable, text.with_images, text.longest > 100) == (12, 12, 0, True)
    assert (captions.with_images, captions.crops) == (12, 12) and 0 < captions.supervised < captions.tokens
    assert short.usable + short.counts["too_long_skipped"] == 12 and short.counts["too_long_skipped"] > 0
    assert len(report.notes) == short.counts["too_long_skipped"]
    assert json.loads(json.dumps(report.as_dict()))["sources"][0]["data"] == "text"
    assert any("both / captions: 12 of 12 samples usable" in line for line in report.lines())
    assert [source.stage for source in check_data(recipe, ["text"]).sources] == ["text"]


def test_check_names_every_bad_record(tmp_path):
    records = [
        record("good", "<image>\nA", image=save_image(tmp_path, "a.png")),
        record("gone", "<image>\nA", image="gone.png"),
        record("marks", "<image> <image>\nA", image="a.png"),
    ]
    report = check_data(record_recipe(tmp_path, records))
    assert len(report.problems) == 2 and report.sources[0].usable == 1
    assert "record 'gone'" in report.problems[0] and "record 'marks'" in report.problems[1]
    tolerant = DataSpec(
        "llava", "records.json", "images", on_bad_image="substitute", on_bad_record="skip", max_bad_records=0.7
    )
    report = check_data(record_recipe(tmp_path, records, tolerant))
    assert report.problems == []
    assert "record 'gone' (number 1): image" in report.notes[0] and "record 'marks' (number 2) has 2" in report.notes[1]
    tolerant.max_bad_records = 0.6
    (problem,) = check_data(record_recipe(tmp_path, records, tolerant)).problems
    assert "data.records: 2 of 3 records are malformed or have bad images, more than max_bad_records 0.6" in problem


def test_check_reports_a_missing_file_and_goes_on(tmp_path):
    recipe = record_recipe(tmp_path, [record("a", "A")])
    recipe.data["gone"] = DataSpec("llava", "gone.json")
    recipe.stages = {"first": stage(["gone"]), "second": stage(["records"])}
    report = check_data(recipe)
    assert len(report.problems) == 1 and "gone.json does not exist" in report.problems[0]
    assert [source.stage for source in report.sources] == ["second"]


def test_check_finds_data_without_any_usable_sample(tmp_path):
    report = check_data(record_recipe(tmp_path, [{"conversations": [{"from": "human", "value": "A"}]}]))
    assert "no sample is usable" in report.problems[0]


@pytest.mark.parametrize("stages", [{}, {"only": stage([])}])
def test_recipe_without_data_is_refused(tmp_path, stages):
    recipe = record_recipe(tmp_path, [record("a", "A")])
    recipe.stages = stages
    if stages:
        assert "names no data set" in check_data(recipe).problems[0]
    else:
        with pytest.raises(UserError, match="no stage"):
            check_data(recipe)


def test_show_sample_marks_what_is_supervised(tmp_path):
    records = [record("a", "<image>\nvalue of C", "12", save_image(tmp_path, "a.png")), record("b", "A")]
    shown = show_sample(record_recipe(tmp_path, records), "records", 0)
    assert "record 'a'" in shown and "a.png" in shown and "crops: [1]" in shown
    assert "<s><image>\nvalue of C<answer>12</s>" in shown
    assert "17 of images, 3 supervised" in shown
    assert "<s> <image>×17 \n|value| |of| |C|<answer> ⟦1|2|</s>⟧" in shown


def test_show_sample_of_a_page_shows_its_grid(tmp_path):
    recipe = page_recipe(tmp_path, tower=stage(["glyphs"], train=["tower"], objective="patch_classification"))
    recipe.vision.config["image_size"] = 112
    assert "64 supervised patches" in show_sample(recipe)


@pytest.mark.parametrize(("name", "index", "message"), [("records", 5, "use 0 to 0"), ("recrods", 0, "did you mean")])
def test_show_sample_refuses_what_is_not_there(tmp_path, name, index, message):
    with pytest.raises(UserError, match=message):
        show_sample(record_recipe(tmp_path, [record("a", "A")]), name, index)


def test_show_sample_says_why_a_sample_is_not_usable(tmp_path):
    shown = show_sample(record_recipe(tmp_path, [record("a", "A" * 50)], max_length=10))
    assert "not usable: " in shown and "more than stages.sample.max_length 10; skipped" in shown
