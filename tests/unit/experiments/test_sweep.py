"""Sweeps as a user starts them: real runs of two steps, resumed, failing, and the table made from their result."""

import csv
import json
from dataclasses import replace

import pytest

from proxyv.config import load_recipe, save_recipe
from proxyv.errors import UserError
from proxyv.experiments import sweep_results
from proxyv.experiments.shared_stages import own_recipe, shared_recipe
from proxyv.experiments.sweep import sweep
from proxyv.experiments.sweep_results import failures, sweep_table
from proxyv.locks import only_process
from proxyv.report.make import write_into
from proxyv.train.trainer import StageTrainer
from tests.small_runs import PROXYV, SUITE, page_recipe, stage

FULL = {"name": "full"}
BROKEN = {"name": "proxyv", "start_layer": 9}  # of three layers: shows when the model is built


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_recipe(folder, name, method=FULL, **fields):
    """A recipe with a shareable stage and one that trains the method, two steps each, in `folder`/recipes."""
    caption = stage(["captions"], train=["projector"], steps=2)
    recipe = page_recipe(folder, method, caption=caption, instruct=stage(["instruct"], steps=2))
    recipe = replace(recipe, name=name, suite=str(folder / "two.yaml"), **fields)
    recipe.pages.test_pages = 2
    (folder / "two.yaml").write_text(SUITE)
    (folder / "recipes").mkdir(exist_ok=True)
    save_recipe(recipe, folder / "recipes" / f"{name}.yaml")
    return folder / "recipes" / f"{name}.yaml"


def read(path):
    return json.loads(path.read_text())


def test_everything_is_done_once_and_stands_in_one_result(tmp_path, monkeypatch):
    for name, method in (("full", FULL), ("proxies", PROXYV)):
        write_recipe(tmp_path, name, method)
    output = tmp_path / "sweep"
    options = dict(seeds=[0, 3], shared=["caption"], batch_size=2, overrides=["attention=eager"])
    found = sweep([tmp_path / "recipes"], output, **options)
    assert found == read(output / "sweep.json") and failures(found) is None
    assert list(found["recipes"]) == ["full", "proxies"]
    assert {seed: list(training["stages"]) for seed, training in found["shared"].items()} == {
        "0": ["caption"],
        "3": ["caption"],
    }
    for name, entry in found["recipes"].items():
        assert entry["seeds"] == [0, 3] and entry["failed"] == {}
        assert entry["profile"]["decoder_flops"] == read(output / name / "profile.json")["decoder_flops"]
        for seed, run in entry["runs"].items():
            folder = output / name / f"seed-{seed}"
            recipe = load_recipe(folder / "recipe.yaml")
            assert (recipe.seed, recipe.run_stages, recipe.attention) == (int(seed), ["instruct"], "eager")
            assert recipe.start_from == str(output / "shared" / f"seed-{seed}")
            suite, finished = read(folder / "eval" / "suite-two.json"), read(folder / "instruct" / "finished.json")
            assert run["suite"]["score"] == suite["score"]
            for benchmark, part in run["benchmarks"].items():
                assert part["main_score"] == suite["benchmarks"][benchmark]["main_score"]
            assert (run["training"]["loss"], run["training"]["steps"]) == (finished["loss"], 2)
            assert finished["environment"] in entry["environments"]
    proxies = found["recipes"]["proxies"]
    assert proxies["method"] == {**proxies["method"], **PROXYV} and "initialisation" in proxies["method"]
    assert 0 < proxies["profile"]["decoder_flops_reduction"] < 1
    assert found["recipes"]["full"]["profile"]["decoder_flops_reduction"] == 0
    one, other = (proxies["runs"][seed]["training"]["loss"] for seed in ("0", "3"))
    summary = proxies["summary"]["training_loss"]
    assert one != other and summary["mean"] == pytest.approx((one + other) / 2)
    assert summary["spread"] == pytest.approx(abs(one - other) / 2**0.5)
    assert (output / "sweep.md").read_text().startswith(sweep_table(found))
    assert (output / "sweep.png").stat().st_size

    # Once more, with a seed less: nothing is trained or answered again, and what was there stays in the result.
    def fail(*args, **kwargs):
        raise AssertionError("done already")

    monkeypatch.setattr(StageTrainer, "training_step", fail)
    monkeypatch.setattr("proxyv.evaluation.answerer.generate_answers", fail)
    assert sweep([tmp_path / "recipes"], output, **{**options, "seeds": [3]}) == found


def test_a_killed_sweep_goes_on(tmp_path, monkeypatch):
    paths = [write_recipe(tmp_path, "one"), write_recipe(tmp_path, "two", PROXYV)]
    expected = sweep(paths, tmp_path / "whole", do=["train"])
    original, calls = StageTrainer.training_step, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # the first step of the second recipe's second stage would be the seventh
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(paths, tmp_path / "cut", do=["train"])
    assert list(read(tmp_path / "cut" / "sweep.json")["recipes"]["one"]["runs"]) == ["0"]
    kept = (tmp_path / "cut" / "one" / "seed-0" / "instruct" / "finished.json").read_text()
    resumed = sweep(paths, tmp_path / "cut", do=["train"])
    assert (tmp_path / "cut" / "one" / "seed-0" / "instruct" / "finished.json").read_text() == kept
    for name in ("one", "two"):
        found, wanted = (whole["recipes"][name]["summary"] for whole in (resumed, expected))
        assert found == wanted and found["training_loss"]["spread"] is None
    assert len(calls) == 6 + 4  # the interrupted stage had no checkpoint: its two steps and those of the next


def test_a_sweep_killed_at_its_very_beginning_goes_on_and_a_second_one_is_refused(tmp_path):
    path, output = write_recipe(tmp_path, "one"), tmp_path / "sweep"
    (output / "one").mkdir(parents=True)
    (output / "one" / ".recipe.yaml.7.tmp").write_text("name: o")  # killed while it was written
    with only_process(output / ".lock"), pytest.raises(UserError, match="sweep: .* is at work there"):
        sweep([path], output, do=["profile"])
    assert "one" in sweep([path], output, do=["profile"])["recipes"]
    assert not (output / ".lock").exists()


def test_a_failing_recipe_leaves_the_others_alone(tmp_path, capsys, monkeypatch):
    paths = [write_recipe(tmp_path, "a", BROKEN), write_recipe(tmp_path, "b")]
    found = sweep(paths, tmp_path / "sweep", do=["profile", "train"])
    message = "method.start_layer: 9 is not a layer of the LLM; use 0 to 2"
    assert found["recipes"]["a"]["failed"] == {"profile": message, "seed 0": message}
    assert failures(found) == f"1 of 2 recipes failed: a (profile, seed 0): {message}"
    assert found["recipes"]["b"]["runs"]["0"]["training"]["steps"] == 4
    table = sweep_table(found)
    assert "| a | 0 |" in table and f"- a, seed 0: failed: {message}" in table and "| b | 1 |" in table

    def burst(*args, **kwargs):
        raise RuntimeError("out of memory\nand so on")

    monkeypatch.setattr("proxyv.experiments.sweep.profile_recipe", burst)
    (tmp_path / "sweep" / "b" / "profile.json").unlink()
    found = sweep(paths[1:], tmp_path / "sweep", do=["profile"])
    assert failures(found) == "1 of 2 recipes failed: b (profile): RuntimeError: out of memory and so on"
    assert "Traceback" in capsys.readouterr().err


def test_a_changed_recipe_is_refused_before_anything_is_done(tmp_path):
    path = write_recipe(tmp_path, "one")
    sweep([path], tmp_path / "sweep", do=["profile"])
    options = dict(do=["profile"], overrides=["stages.instruct.steps=7"])
    with pytest.raises(UserError, match="one holds the runs of another recipe: stages.instruct.steps was 2 and is 7"):
        sweep([write_recipe(tmp_path, "new"), path], tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep" / "new").exists()
    with pytest.raises(UserError, match="another recipe: run_stages was None and is .*; choose another --output"):
        sweep([path], tmp_path / "sweep", do=["profile"], shared=["caption"])


def test_shared_stages_must_be_the_same_for_all(tmp_path):
    one, two = (load_recipe(write_recipe(tmp_path, name, method)) for name, method in (("a", FULL), ("b", PROXYV)))
    shared = shared_recipe([two, one], ["caption"], "base")
    assert (shared.name, shared.method, list(shared.stages)) == ("base", FULL, ["caption"])
    assert shared == shared_recipe([one], ["caption"], "base")  # whichever recipe comes first
    assert own_recipe(two, ["caption"], tmp_path / "base") == replace(
        two, start_from=str(tmp_path / "base"), run_stages=["instruct"]
    )
    wider = replace(two, llm=replace(two.llm, config={**two.llm.config, "hidden_size": 64}))
    with pytest.raises(UserError, match="^llm.config.hidden_size: a has 32 and b has 64; recipes that share"):
        shared_recipe([one, wider], ["caption"], "base")
    longer = replace(two, stages={**two.stages, "caption": replace(two.stages["caption"], steps=9)})
    with pytest.raises(UserError, match="^stages.caption.steps: a has 2 and b has 9"):
        shared_recipe([one, longer], ["caption"], "base")
    own = replace(two, stages={**two.stages, "instruct": replace(two.stages["instruct"], steps=9)})
    assert shared_recipe([one, own], ["caption"], "base") == shared
    for stages in (["instruct"], ["caption", "instruct"], ["captoin"]):
        with pytest.raises(UserError, match="a: .* cannot be shared: .*; it has caption, instruct"):
            shared_recipe([one, two], stages, "base")
    taught = replace(two, stages={"caption": stage(["captions"], train=["method"]), **two.stages})
    taught.stages["caption"] = stage(["captions"], train=["method"])
    with pytest.raises(UserError, match="b: stages.caption.train: trains the method, so the stage cannot be shared"):
        shared_recipe([one, taught], ["caption"], "base")


def test_a_training_free_recipe_is_evaluated_from_its_start(tmp_path):
    trained = sweep([write_recipe(tmp_path, "base")], tmp_path / "sweep", batch_size=2)
    start = dict(start_from=str(tmp_path / "sweep" / "base" / "seed-0"), run_stages=[])
    masked = {"name": "mask_attention", "start_layer": 1}
    paths = [write_recipe(tmp_path, name, m, **start) for name, m in dict(free=FULL, heavy=PROXYV, mask=masked).items()]
    found = sweep(paths, tmp_path / "sweep", batch_size=2, do=["train", "eval"])["recipes"]
    assert found["free"]["summary"] == {
        name: figure for name, figure in trained["recipes"]["base"]["summary"].items() if name != "training_loss"
    }
    assert found["mask"]["method"] == masked and found["mask"]["seeds"] == [0] and not found["mask"]["failed"]
    assert found["heavy"]["failed"] == {
        "seed 0": "heavy: run_stages: empty, but the method has weights to train; name a stage"
    }
    with pytest.raises(UserError, match="run_stages: empty, and no start_from to evaluate"):
        sweep([write_recipe(tmp_path, "lost", run_stages=[])], tmp_path / "sweep")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(do=["trian"]), "do: 'trian' is no step; did you mean 'train'"),
        (dict(seeds=[1, 1]), "seeds: 1 1 given; name each seed once"),
        (dict(batch_size=0), "batch_size: must be at least 1, found 0"),
        (dict(device="gpu"), "device: 'gpu' is not there"),
        (dict(overrides=["seed=3"]), "seed: a sweep sets it itself, by --seeds"),
        (dict(overrides=["suite=null"]), "one: suite: the recipe names none; add --suite NAME"),
        (dict(overrides=["method.start_layr=1"]), "one.yaml: unknown key 'method.start_layr'"),
        (dict(paths=["recipes", "recipes/one.yaml"]), "name: 'one' cannot name a folder, two recipes have it"),
        (dict(paths=["."]), "holds no recipe"),
        (dict(paths=["gone.yaml"]), "gone.yaml: no such file"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, arguments, message):
    write_recipe(tmp_path, "one")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if arguments.get("paths") == ["."] else tmp_path)
    with pytest.raises(UserError, match=message):
        sweep(**{"paths": ["recipes"], "output": tmp_path / "sweep", **arguments})
    assert not (tmp_path / "sweep").exists()


def test_several_processes_only_train(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="do: several processes can only train"):
        sweep([write_recipe(tmp_path, "one")], tmp_path / "sweep")


# ── from files to figures, by hand ──────────────────────────────────────────────────────────────────────────────────


def finished_files(folder, seed, score, loss):
    """What a finished run of one seed leaves, as far as a result reads it."""
    run = folder / f"seed-{seed}"
    definition = {"split": "test", "version": "1", "prompt": {}}
    part = dict(title="Documents", main="anls", main_score=score, num_samples=10, benchmark_definition=definition)
    part |= dict(scale=100.0, scores={"anls": score / 100, "exact_match": score / 100 - 0.01})
    suite = dict(
        suite="two", title="Two", score_name="mean", score=score - 1, metrics_version="1", environment={"a": 1}
    )
    suite |= dict(complete=True, terms=[dict(benchmark="docs", score="exact_match", scale=100.0, value=score - 1)])
    (run / "eval").mkdir(parents=True)
    (run / "only").mkdir()
    (run / "recipe.yaml").write_text("{name: x, stages: {only: {}}}")
    (run / "eval" / "suite-two.json").write_text(
        json.dumps({**suite, "environment": {"a": 1}, "benchmarks": {"docs": part}})
    )
    record = dict(steps=5, loss=loss, seconds=1.0, environment={"a": 1})
    (run / "only" / "finished.json").write_text(json.dumps(record))


@pytest.fixture
def swept(tmp_path):
    """A sweep's folder, written by hand: `full` with two seeds, `light` with one, `idle` only counted."""
    reductions = {"full": 0.0, "idle": 0.5, "light": 0.25}
    for name, reduction in reductions.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(f"{{name: {name}, stages: {{only: {{}}}}}}")
        profile = dict(
            decoder_flops=4_000_000_000, decoder_flops_reduction=reduction, total_flops_reduction=reduction / 2
        )
        (tmp_path / name / "profile.json").write_text(json.dumps(profile))
    finished_files(tmp_path / "full", 0, 80.0, 0.5)
    finished_files(tmp_path / "full", 10, 83.0, 0.7)
    finished_files(tmp_path / "light", 0, 81.0, 0.6)
    sweep_results.write_results(tmp_path, sweep_results.collect(tmp_path, {"light": {"seed 1": "why"}}), tables=True)
    return tmp_path


def test_mean_and_spread_by_hand(swept):
    found = read(swept / "sweep.json")["recipes"]
    # The mean of 80 and 83 is 81.5; deviations of 1.5 each give sqrt(2 · 1.5² / (2 − 1)) = 2.1213.
    assert found["full"]["seeds"] == [0, 10]
    assert found["full"]["summary"]["docs"] == pytest.approx({"mean": 81.5, "spread": 2.12132, "seeds": 2})
    assert found["full"]["summary"]["suite_score"] == pytest.approx({"mean": 80.5, "spread": 2.12132, "seeds": 2})
    assert found["full"]["summary"]["training_loss"] == pytest.approx({"mean": 0.6, "spread": 0.1414214, "seeds": 2})
    assert found["light"]["summary"]["docs"] == {"mean": 81.0, "spread": None, "seeds": 1}
    assert found["idle"]["summary"] == {} and found["full"]["environments"] == [{"a": 1}]


def test_table_of_the_result_alone(swept):
    found = read(swept / "sweep.json")
    assert sweep_table(found).splitlines() == [
        "| recipe | runs | Documents (anls) | Two: mean | decoder GFLOPs | FLOPs reduction % | total FLOPs reduction % "
        "| final training loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full | 2 | 81.5 ± 2.1 | 80.5 ± 2.1 | 4.00 | 0.0 | 0.0 | 0.600 ± 0.141 |",
        "| idle | 1 | – | – | 4.00 | 50.0 | 25.0 | – |",
        "| light | 1 | 81.0 | 80.0 | 4.00 | 25.0 | 12.5 | 0.600 |",
        "",
        "- ± is the standard deviation over runs.",
        "- Documents (anls): 10 samples of test, prompt: the bare question, benchmark version 1, metrics version 1.",
        "- light, seed 1: failed: why",
    ]
    rows = {row["recipe"]: row for row in csv.DictReader((swept / "sweep.csv").open(encoding="utf-8"))}
    assert float(rows["full"]["Documents (anls) spread"]) == pytest.approx(4.5**0.5)
    assert rows["light"]["Documents (anls) spread"] == "" and rows["light"]["Documents (anls) runs"] == "1"


def test_report_puts_the_table_into_a_document(swept, tmp_path_factory):
    document = tmp_path_factory.mktemp("other") / "README.md"
    document.write_text("<!-- table: swept (how) -->\nold\n<!-- end of table -->\n")
    for path in (swept / "sweep.json", swept):  # the file, or the sweep's folder
        write_into(document, "swept", [path])
        table = sweep_table(read(swept / "sweep.json"))
        assert document.read_text() == f"<!-- table: swept (how) -->\n\n{table}\n<!-- end of table -->\n"


def test_plot_shows_scores_against_flops_in_percent_of_full(swept):
    panel = sweep_results.score_panel(read(swept / "sweep.json"))
    assert (swept / "sweep.png").is_file() and "% of full" in panel.cost_axis and panel.score_axis == "mean"
    points = {point.label: point for point in panel.points}
    assert {label: point.cost.mean for label, point in points.items()} == {"full": 100, "light": 75}
    assert points["full"].score.spread == pytest.approx(4.5**0.5) and points["light"].score.runs == 1
