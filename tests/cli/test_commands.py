"""The command line as its users meet it: wrong input gives one line and exit code 2, right input works."""

import json
import time
from dataclasses import replace

import pytest
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from proxyv.cli import main
from proxyv.config import save_recipe
from proxyv.errors import UserError
from tests.small_runs import record, record_recipe, save_image, stage
from tests.tiny import METHODS
from tests.warm import python

VICUNA = "configs/recipes/vicuna-7b-proxyv-l12.yaml"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, repo):
    monkeypatch.chdir(repo)


def fails(capsys, *arguments):
    """Run a command that must fail on wrong input; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith(f"proxyv {arguments[0]}:")]
    assert len(lines) == 1, told
    return lines[0]


@pytest.mark.parametrize(
    "override, message",
    [
        (("--metod.start_layer", "3"), "unknown key 'metod'; did you mean 'method'?"),
        (
            ("--stages.pretrain.learning_rat=1",),
            "unknown key 'stages.pretrain.learning_rat'; did you mean 'learning_rate'?",
        ),
        (("--stages.pretrain.max_length", "long"), "stages.pretrain.max_length: must be an integer, found 'long'"),
        (("--method.start_layer", "32"), "method.start_layer: 32 is not a layer of the LLM; use 0 to 31"),
        (("--method.downsample", "5"), "method.downsample: 5 does not divide the 24 × 24"),
        (("--method.name", "proxi"), "unknown method.name 'proxi'; did you mean 'proxyv'?"),
        (("--method.start_layer",), "option '--method.start_layer' needs a value"),
    ],
)
def test_wrong_recipe_fields(capsys, override, message):
    assert message in fails(capsys, "profile", VICUNA, *override)


def test_an_attention_back_end_that_is_not_there(capsys):
    line = fails(capsys, "bench", VICUNA, "--attention", "flas")
    assert "attention: 'flas' is unknown; use eager, sdpa" in line
    if not (is_flash_attn_2_available() or is_kernels_available()):
        line = fails(capsys, "bench", VICUNA, "--attention", "flash_attention_2")
        assert "is not installed; pip install 'proxyv[flash]'" in line


def test_images_are_looked_at_before_the_model_is(capsys, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for image, problem in (("text.png", "cannot be read"), (".", "a folder"), ("none.png", "does not exist")):
        line = fails(capsys, "generate", str(tmp_path), "--prompt", "q", "--image", str(tmp_path / image))
        assert line.startswith("proxyv generate: --image: ") and problem in line
    assert "URLs are not fetched" in fails(capsys, "generate", "m", "--prompt", "q", "--image", "https://a.b/c.png")


def test_missing_files(capsys, tmp_path):
    assert "no such file" in fails(capsys, "train", "configs/recipes/vicuna-7b-proxyv-112.yaml")
    assert "neither a model folder" in fails(capsys, "eval", str(tmp_path))
    assert "no such file or folder" in fails(capsys, "report", str(tmp_path / "none"))
    assert "no config.json" in fails(capsys, "convert", str(tmp_path), str(tmp_path / "out"))


def test_a_recipe_on_disk_must_be_a_mapping_that_parses(capsys, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("- a\n- b\n")
    assert "must hold a mapping" in fails(capsys, "train", str(recipe))
    recipe.write_text("llm: {config: [\n")
    assert "not valid YAML" in fails(capsys, "train", str(recipe))
    recipe.write_text("parts: [gone.yaml]\n")
    assert "gone.yaml: no such file" in fails(capsys, "train", str(recipe))
    recipe.write_text("parts: [r.yaml]\n")
    assert "leads back" in fails(capsys, "train", str(recipe))


def train_on(capsys, tmp_path, records, **fields):
    recipe = record_recipe(tmp_path, records, **fields)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    return fails(capsys, "train", str(tmp_path / "recipe.yaml"))


def test_missing_image(capsys, tmp_path):
    line = train_on(capsys, tmp_path, [record("7", "<image>\nA", image="gone.png")])
    assert "gone.png" in line and "7" in line


def test_corrupt_image(capsys, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    line = train_on(capsys, tmp_path, [record("7", "<image>\nA", image="bad.png")])
    assert "bad.png" in line and "7" in line


def test_more_placeholders_than_images(capsys, tmp_path):
    name = save_image(tmp_path, "a.png")
    line = train_on(capsys, tmp_path, [record("7", "<image> <image>\nA", image=name)])
    assert "<image>" in line and "7" in line


def test_sample_longer_than_the_limit(capsys, tmp_path):
    name = save_image(tmp_path, "a.png")
    line = train_on(capsys, tmp_path, [record("7", "<image>\nA", image=name)], max_length=10, on_too_long="fail")
    assert "max_length" in line and "7" in line


def test_recipe_without_data(capsys, tmp_path):
    recipe = record_recipe(tmp_path, [record("7", "A")])
    recipe.data, recipe.stages = {}, {"only": stage([])}
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert "data" in fails(capsys, "train", str(tmp_path / "recipe.yaml"))


COMMANDS = ("quickstart", "train", "eval", "rescore", "report", "profile", "bench", "methods", "generate")
COMMANDS += ("sweep", "convert", "merge", "export", "doctor")


@pytest.mark.parametrize("command", (*COMMANDS, "check-data", "show-sample"))
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: proxyv {command}" in " ".join(capsys.readouterr().out.split())


def test_profile_prints_the_published_reduction(capsys):
    start = time.perf_counter()
    main(["profile", VICUNA, "--compare", "full", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert abs(figures["decoder_flops_reduction"] - 0.46) < 0.01
    assert (figures["vision_tokens"], figures["text_tokens"]) == (2880, 50)
    assert time.perf_counter() - start < 60


def test_doctor(capsys):
    try:
        main(["doctor", "--json"])
    except SystemExit:
        pytest.fail("the environment of the tests has faults")
    assert json.loads(capsys.readouterr().out)["environment"]["versions"]["torch"]


def test_train_eval_generate_show_and_check(capsys, tmp_path):
    """One run folder through every command that reads or writes it."""
    name = save_image(tmp_path, "a.png")
    recipe = record_recipe(tmp_path, [record(str(i), "<image>\nwhich word", "AB", image=name) for i in range(8)])
    recipe.method = METHODS[1]
    path = str(tmp_path / "recipe.yaml")
    save_recipe(recipe, path)
    main(["check-data", path])
    assert "8 of 8 samples usable" in capsys.readouterr().out
    main(["show-sample", path, "--index", "2"])
    assert "which word" in capsys.readouterr().out
    main(["train", path])
    run = capsys.readouterr().out.splitlines()[-1]
    main(["generate", run, "--image", str(tmp_path / "images" / name), "--prompt", "which word", "--json"])
    assert "answer" in json.loads(capsys.readouterr().out)
    assert "has no recipe that names" in fails(capsys, "eval", run)
    assert "unknown option '--foo'" in fails(capsys, "eval", run, "--foo", "1")
    with pytest.raises(UserError, match="another recipe|go on with --resume"):
        from proxyv.train import train

        train(recipe)


def test_sweep(capsys, tmp_path):
    """The result alone on stdout; a failing recipe's line and exit code 2; one line for wrong input."""
    for name, method in (("good", METHODS[1]), ("bad", {**METHODS[1], "start_layer": 9})):
        recipe = record_recipe(tmp_path, [record(str(i), "which word", "AB") for i in range(8)])
        save_recipe(replace(recipe, name=name, method=method), tmp_path / f"{name}.yaml")
    good, bad = str(tmp_path / "good.yaml"), str(tmp_path / "bad.yaml")
    options = ("--output", str(tmp_path / "sweep"), "--do", "profile,train", "--stages.only.steps", "2")
    main(["sweep", good, *options, "--seeds", "0", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["recipes"]["good"]["seeds"] == [0, 1]
    with pytest.raises(SystemExit) as stop:
        main(["sweep", good, bad, *options])
    shown = capsys.readouterr()
    assert stop.value.code == 2 and "| good | 2 |" in shown.out.splitlines()[3]
    message = (
        "1 of 2 recipes failed: bad (profile, seed 0): method.start_layer: 9 is not a layer of the LLM; use 0 to 2"
    )
    assert shown.err.splitlines()[-1] == f"proxyv sweep: {message}"
    with pytest.raises(SystemExit):
        main(["sweep", good, *options[:-1], "3"])
    assert "another recipe: stages.only.steps was 2 and is 3; choose another --output" in capsys.readouterr().err
    assert "suite: the recipe names none; add --suite" in fails(capsys, "sweep", good, "--output", str(tmp_path / "x"))
    assert "cannot be shared" in fails(capsys, "sweep", good, "--do", "train", "--shared", "only")


@pytest.mark.slow
def test_quickstart_smoke(tmp_path):
    """The main job, two steps a stage: table and plot are there within a minute on idle cores."""
    command = ["-m", "proxyv", "quickstart", "--smoke", "--output", str(tmp_path / "q")]
    done = python(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| tiny-full |" in done.stdout and "| tiny-proxyv-l2 |" in done.stdout
    report = tmp_path / "q" / "report"
    assert {"report.md", "report.csv", "report.png"} <= {file.name for file in report.iterdir()}
    again = python(*command, folder=tmp_path)
    assert again.returncode == 0 and "| tiny-full |" in again.stdout  # finished parts are kept
