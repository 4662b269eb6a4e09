"""What can be refused without weights is refused before they are loaded; and prompts beyond the LLM's positions."""

import json

import pytest
import torch

from proxyv.cli import main
from proxyv.environment import find_device
from proxyv.errors import UserError
from proxyv.evaluation.answers import answer
from proxyv.train.settings import check_stage
from tests.fuzz.tables import SUITE, rows, write_benchmark
from tests.small_runs import page_recipe
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """The line in which `proxyv eval` ends on changed rows; loading weights would fail the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("proxyv.checkpoints.load.load_for_evaluation", lambda *words, **options: pytest.fail("loaded"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_benchmark(tmp_path / "bench")

    def run(change=None, suite=SUITE, **options):
        found = rows()
        if change is not None:
            change(found)
        (tmp_path / "bench" / "toy.json").write_text(json.dumps(found))
        words = ["--suite", suite if "/" in suite else tmp_path / "bench" / "suites" / suite]
        words += ["--data_root", tmp_path / "bench", "--benchmarks_dir", tmp_path / "bench"]
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        with pytest.raises(SystemExit) as stop:
            main(["eval", str(tmp_path / "model"), *map(str, words)])
        shown = capsys.readouterr().err
        assert stop.value.code == 2 and shown.count("\n") == 1
        return shown

    return run


NULLS = {
    "question": "column 'question' holds None and must hold a text",
    "answers": "no answer in column 'answers'",
    "image": "no image in column 'image'",
    "bbox": "bbox is None and must be 4 numbers",
}


@pytest.mark.parametrize("column", NULLS)
def test_nulls_in_a_benchmark_name_the_sample_and_the_column(refusal, column):
    line = refusal(lambda found: found[1].update({column: None}))
    assert "sample 'q1'" in line and NULLS[column] in line


def test_a_question_of_another_type_is_refused(refusal):
    def change(found):
        for row in found:
            row["question"] = 5

    assert "column 'question' holds 5 and must hold a text" in refusal(change)


def test_the_suite_and_the_numbers_come_before_the_weights(refusal):
    assert "no such file" in refusal(suite="/nowhere/suite.yaml")
    assert "seed: must be at least 0, found -1" in refusal(seed=-1)
    assert "batch_size: must be at least 1, found 0" in refusal(batch_size=0)


def short_model(method=METHODS[0]):
    """A tiny model with 64 positions: an image of one crop (17 rows) fits, of two does not fit with the text."""
    model, processor = tiny_model(method=method)
    model.config.text_config.max_position_embeddings = 64
    return model, processor


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: method["name"])
def test_a_prompt_beyond_the_positions_is_refused(method):
    model, processor = short_model(method)
    answer(model, processor, "a", [random_image(56, 56)][:0], 1)
    with pytest.raises(UserError, match="prompt: .* rows, images included, are more than the 64 positions"):
        answer(model, processor, "a", [random_image(60, 200)], 1)
    with pytest.raises(UserError, match="more than the 64 positions"):
        model(input_ids=torch.zeros(1, 65, dtype=torch.long))


def test_padding_does_not_count():
    model, _ = short_model()
    mask = torch.zeros(1, 80, dtype=torch.long)
    mask[:, -10:] = 1
    model(input_ids=torch.zeros(1, 80, dtype=torch.long), attention_mask=mask)


def test_a_stretched_rotary_embedding_has_more_positions():
    from proxyv.model.sub_configs import position_limit, sub_config

    text = {**tiny_recipe().llm.config, "max_position_embeddings": 64}
    assert position_limit(sub_config(text, "llm.config")) == 64
    stretched = {**text, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    assert position_limit(sub_config(stretched, "llm.config")) == 256


def test_a_stage_longer_than_the_positions_is_refused(tmp_path):
    recipe = page_recipe(tmp_path)
    recipe.llm.config["max_position_embeddings"] = 64
    with pytest.raises(UserError, match=r"stages.mixed.max_length: 2048 is more than the 64 positions"):
        check_stage(recipe, "mixed")


@pytest.mark.parametrize("path", ["x" * 5000, "/proc/1/mem/x"])
def test_a_path_that_the_system_refuses_ends_in_one_line(path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", path, "--prompt", "a"])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.count("\n") == 1 and shown.startswith("proxyv generate: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["generate", "m", "--prompt", "a", "--max_new_tokens", "0"],
            "--max_new_tokens: 0 is too small; use 1 or more",
        ),
        (["generate", "m", "--prompt", "\udcff"], "--prompt: holds bytes that are not UTF-8 text"),
        (["generate", "", "--prompt", "a"], "model: is empty; give a value, or leave the option out"),
        (["eval", "m", "--output", ""], "output: is empty"),
        (["eval", "m", "--suite="], "suite: is empty"),
        (["report", "m", ""], "paths: is empty"),
        (["sweep", "r.yaml", "--do", ""], "do: is empty"),
        (
            ["export", "m", "t", "--hub-name", "noslash"],
            "hub_name: 'noslash' is no name on the hub; write it as owner/",
        ),
        (["export", "m", "t", "--hub-name", "a/b\nc"], "hub_name: 'a/b\\nc' is no name"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.count("\n") == 1 and said in shown


def test_a_device_without_values_is_refused():
    with pytest.raises(UserError, match="device: 'meta' is not there"):
        find_device("meta")
