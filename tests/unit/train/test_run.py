"""Training runs as a user starts them: stages in order, saved, logged, resumed, repeatable."""

import json
import os
from dataclasses import replace

import pytest
import torch

from proxyv.checkpoints.run_folder import find_model
from proxyv.config import DataSpec, load_recipe, save_recipe
from proxyv.data import training_data
from proxyv.errors import UserError
from proxyv.model import ProxyVForConditionalGeneration, ProxyVProcessor
from proxyv.model.registry import settle_recipe
from proxyv.train import run as run_module
from proxyv.train import stage as stage_module
from proxyv.train import train
from proxyv.train.start import load_start, sanitise_generation
from tests.small_runs import (
    ALL_GROUPS,
    PROXYV,
    PowerCut,
    figures,
    interrupt,
    page_recipe,
    read_log,
    record,
    record_recipe,
    save_image,
    stage,
)

ADAPTER = ["projector", "newline", "method"]


def weights(folder):
    return ProxyVForConditionalGeneration.from_pretrained(folder).state_dict()


def changed_groups(before, after, model):
    """For each module group whether all, none or some of its parameters differ."""
    found = {}
    for name, _ in model.named_parameters():
        found.setdefault(model.module_group(name), set()).add(not torch.equal(before[name], after[name]))
    return {group: "some" if len(kinds) > 1 else "all" if kinds.pop() else "none" for group, kinds in found.items()}


def test_stages_run_in_order_and_leave_complete_models(tmp_path):
    recipe = page_recipe(
        tmp_path,
        tower=stage(["glyphs"], train=["tower"], objective="patch_classification"),
        text=stage(["text"], train=["llm"]),
        caption=stage(["captions"], train=ADAPTER, save_steps=2, schedule="cosine"),
        instruct=stage(["instruct", "text"], micro_batch_size=2),
    )
    recipe.vision.config["image_size"] = 112
    run = train(recipe)
    assert run == tmp_path / "runs" / "tiny" and find_model(run) == run / "instruct"
    assert load_recipe(run / "recipe.yaml") == settle_recipe(recipe)
    for folder in [*(run / name for name in recipe.stages), run / "caption" / "checkpoint-4"]:
        assert find_model(folder) == folder
        assert ProxyVProcessor.from_pretrained(folder).chat_template
        assert weights(folder)
    torch.manual_seed(recipe.seed)
    model, _ = load_start(recipe, run / "tower")
    after = [weights(run / name) for name in recipe.stages]
    nothing = dict.fromkeys(ALL_GROUPS, "none")
    assert changed_groups(after[0], after[1], model) == {**nothing, "llm": "all"}
    assert changed_groups(after[1], after[2], model) == {**nothing, **dict.fromkeys(ADAPTER, "all")}
    # The tower's last norm comes after its features.
    assert changed_groups(after[2], after[3], model) == {**dict.fromkeys(ALL_GROUPS, "all"), "tower": "some"}


def test_log_and_finish_record(tmp_path, capsys):
    spec = stage(["captions", "text"], steps=5, logging_steps=2, group_learning_rate={"method": 1e-4}, max_length=120)
    run = train(page_recipe(tmp_path, mixed=spec))
    log = read_log(run, "mixed")
    assert [entry["step"] for entry in log] == [2, 4, 5]
    for entry in log:
        assert entry["learning_rate/method"] == 1e-4 and entry["learning_rate/llm"] == 1e-3
        assert 0 < entry["supervised_tokens_per_second"] < entry["tokens_per_second"]
        assert {"loss", "grad_norm", "data_wait_seconds", "peak_memory_gib", "elapsed_seconds", "epoch"} <= set(entry)
    assert log[-1]["epoch"] == pytest.approx(5 * 4 / 24)
    finished = json.loads((run / "mixed" / "finished.json").read_text())
    assert finished["steps"] == 5 and finished["loss"] == log[-1]["loss"] and finished["environment"]["versions"]
    assert finished["samples"]["too_long_skipped"] == log[-1]["too_long_skipped"] > 0
    assert "stage mixed: 24 samples" in (shown := capsys.readouterr().out) and "method" in shown


def test_a_stage_with_deepspeed_leaves_nothing_to_the_next(tmp_path, monkeypatch):
    """accelerate says in the environment that DeepSpeed is in use, and would train any later stage with it."""
    found = []

    def leaving(*_):
        found.append(os.environ.get("ACCELERATE_USE_DEEPSPEED"))
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")

    monkeypatch.setattr(run_module, "run_stage", leaving)
    train(page_recipe(tmp_path, sharded=stage(["text"]), whole=stage(["text"])))
    assert found == [None, None] and "ACCELERATE_USE_DEEPSPEED" not in os.environ


def test_the_same_run_twice_is_identical(tmp_path):
    recipe = page_recipe(tmp_path)
    first = figures(train(recipe), "mixed")
    second = figures(train(replace(recipe, name="again")), "mixed")
    other = figures(train(replace(recipe, name="other", seed=1)), "mixed")
    assert first == second != other


@pytest.mark.parametrize("fields", [dict(micro_batch_size=1), dict(gradient_checkpointing=True)])
def test_how_the_work_is_cut_leaves_losses_alone(tmp_path, fields):
    recipe = page_recipe(tmp_path)
    expected = figures(train(recipe), "mixed")
    spec = replace(recipe.stages["mixed"], **fields)
    found = figures(train(replace(recipe, name="cut", stages={"mixed": spec})), "mixed")
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=2e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_losses_equal_uninterrupted_ones(tmp_path, monkeypatch, optimizer):
    spec = stage(
        ["captions", "text"], steps=9, save_steps=2, schedule="cosine", micro_batch_size=2, optimizer=optimizer
    )
    recipe = page_recipe(tmp_path, first=stage(["text"], train=["llm"]), second=spec)
    expected = train(recipe)
    cut = replace(recipe, name="cut")
    restore = interrupt(monkeypatch, 7)  # in the second stage, in the second epoch, one step after a checkpoint
    with pytest.raises(PowerCut):
        train(cut)
    restore()
    run = tmp_path / "runs" / "cut"
    assert [entry["step"] for entry in read_log(run, "second")] == list(range(1, 8))
    with pytest.raises(UserError, match="unfinished run.*--resume"):
        train(cut)
    with pytest.raises(UserError, match="'second' is not finished"):
        find_model(run)
    before = (run / "first" / "finished.json").read_text()
    assert train(cut, resume=True) == run
    assert (run / "first" / "finished.json").read_text() == before
    assert figures(run, "second") == figures(expected, "second")
    one, other = weights(expected / "second"), weights(run / "second")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_stage_without_checkpoint_begins_anew(tmp_path, monkeypatch):
    recipe = page_recipe(tmp_path)
    expected = figures(train(recipe), "mixed")
    cut = replace(recipe, name="cut")
    restore = interrupt(monkeypatch, 2)
    with pytest.raises(PowerCut):
        train(cut)
    restore()
    assert figures(train(cut, resume=True), "mixed") == expected


def test_run_folder_is_not_reused_by_accident(tmp_path):
    recipe = page_recipe(tmp_path, short=stage(["text"], steps=1))
    train(recipe)
    with pytest.raises(UserError, match="runs/tiny holds a finished run of this recipe.*--resume"):
        train(recipe)
    train(recipe, resume=True)
    with pytest.raises(UserError, match="run of another recipe; choose another name"):
        train(replace(recipe, seed=5), resume=True)


def test_a_recipe_is_recorded_with_its_methods_defaults_and_resumes_without(tmp_path):
    recipe = page_recipe(tmp_path, short=stage(["text"], steps=1))
    run = train(recipe)
    assert load_recipe(run / "recipe.yaml").method == {**settle_recipe(recipe).method, **PROXYV} != PROXYV
    save_recipe(recipe, run / "recipe.yaml")  # as an earlier version left it
    assert train(recipe, resume=True) == train(settle_recipe(recipe), resume=True) == run
    with pytest.raises(UserError, match="method.hidden_ratio was 2 and is 4"):
        train(replace(recipe, method={**PROXYV, "hidden_ratio": 4}), resume=True)


def test_start_from_switches_a_method_on(tmp_path):
    recipe = page_recipe(tmp_path, method={"name": "full"}, text=stage(["text"], steps=1))
    run = train(recipe)
    adapt = stage(["captions"], train=ADAPTER)
    later = replace(recipe, name="later", method=PROXYV, start_from=str(run), stages={"adapt": adapt})
    changed, start = weights(train(later) / "adapt"), weights(run / "text")
    assert set(start) < set(changed) and any("guided_update" in name for name in changed)
    assert all(torch.equal(start[name], changed[name]) for name in start if name.startswith("language_model"))
    with pytest.raises(UserError, match="already has"):
        train(replace(recipe, name="back", start_from=str(tmp_path / "runs" / "later")))


def test_run_stages_chooses(tmp_path):
    recipe = page_recipe(tmp_path, a=stage(["text"], steps=1), b=stage(["text"], steps=1))
    recipe.run_stages = ["b"]
    run = train(recipe)
    assert not (run / "a").exists() and find_model(run) == run / "b"
    with pytest.raises(UserError, match="run_stages: 'c' is no stage"):
        train(replace(recipe, name="c", run_stages=["c"]))
    with pytest.raises(UserError, match="no stage to train"):
        train(replace(recipe, name="d", stages={}, run_stages=None))


def test_find_model_refuses_other_folders(tmp_path):
    with pytest.raises(UserError, match="neither a model folder"):
        find_model(tmp_path)


def test_missing_data_shows_before_the_first_stage(tmp_path):
    recipe = page_recipe(tmp_path, a=stage(["text"]), b=stage(["gone"]))
    recipe.data["gone"] = DataSpec("llava", "gone.json")
    with pytest.raises(UserError, match="data.gone.path: .*gone.json does not exist"):
        train(recipe)
    assert not (tmp_path / "runs" / "tiny" / "a").exists()


def test_a_save_that_cannot_work_shows_before_the_first_step(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage_module, "save", fail)
    with pytest.raises(UserError, match="cannot be saved there.*No space left"):
        train(page_recipe(tmp_path))
    assert [path.name for path in (tmp_path / "runs" / "tiny" / "mixed").iterdir()] == []


def test_sampling_settings_that_do_not_sample_are_dropped(tmp_path):
    model, processor = load_start(page_recipe(tmp_path), None)
    model.generation_config.temperature, model.generation_config.top_p = 0.9, 0.6  # as Vicuna's
    sanitise_generation(model)
    model.save_pretrained(tmp_path / "model")
    assert "temperature" not in json.loads((tmp_path / "model" / "generation_config.json").read_text())


def test_vocabulary_must_hold_the_tokenizer(tmp_path):
    recipe = page_recipe(tmp_path)
    recipe.llm.config["vocab_size"] = 20
    with pytest.raises(UserError, match="llm.config.vocab_size: 20 is too small.*at least"):
        train(recipe)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    recipe = page_recipe(tmp_path, hot=stage(["captions"], learning_rate=1e30))
    with pytest.raises(UserError, match="the loss is nan at step 2; lower the learning rate"):
        train(recipe)


def test_bfloat16_and_groups_by_length(tmp_path):
    spec = stage(["captions", "text"], dtype="bfloat16", group_by_length=True, steps=None, epochs=1)
    run = train(page_recipe(tmp_path, mixed=spec))
    assert len(read_log(run, "mixed")) == 6
    assert {value.dtype for value in weights(run / "mixed").values()} == {torch.float32}


def test_errors_from_data_workers_stay_one_line(tmp_path):
    records = [
        record("a", "<image>\nA", image=save_image(tmp_path, "a.png")),
        record("b", "<image>\nA", image="b.png"),
    ]
    recipe = record_recipe(tmp_path, records, dataloader_workers=1, global_batch_size=2, micro_batch_size=2)
    with pytest.raises(
        UserError, match=r"^.*records.json: record 'b' .number 1.: image .*b.png does not exist"
    ) as raised:
        train(recipe)
    assert "\n" not in str(raised.value)


def test_bad_records_are_skipped_counted_and_more_than_the_ceiling_end_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training_data, "FAIR_SHARE", 8)
    names = [save_image(tmp_path, f"{number}.png") for number in range(6)]
    records = [record(name, "<image>\nA", image=name) for name in names]
    records += [{"id": "bad"}, record("gone", "<image>\nA", image="gone.png")]
    spec = DataSpec("llava", "records.json", "images", on_bad_record="skip", on_bad_image="skip", max_bad_records=0.5)
    recipe = record_recipe(tmp_path, records, spec)
    run = train(recipe)
    assert "data.records: 1 of 8 records are bad and will be skipped; the first:" in capsys.readouterr().out
    samples = json.loads((run / "only" / "finished.json").read_text())["samples"]
    assert samples["bad_records_skipped"] == samples["bad_images_skipped"] == 2  # in two epochs
    spec.max_bad_records = 0.15
    with pytest.raises(UserError, match="stages.only.data: .* samples had a bad record or image.*check-data"):
        train(replace(recipe, name="strict"))
    spec.max_bad_records = 0.1
    with pytest.raises(UserError, match="data.records: 1 of 8 records are bad, more than max_bad_records 0.1"):
        train(replace(recipe, name="stricter"))
    spec.on_bad_record = "fail"
    with pytest.raises(UserError, match="record 'bad' .number 6. has no 'conversations'"):
        train(replace(recipe, name="strictest"))
