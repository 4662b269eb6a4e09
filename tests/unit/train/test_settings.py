"""What a stage's fields mean: trainable groups, rates, schedules, and one clear line for what cannot work."""

import copy
import importlib.util
import math

import pytest
import torch
from transformers import LlamaConfig

from proxyv.config import StageSpec
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.processes import connect, world_size
from proxyv.train.optimizer import MuonAdamW, make_optimizer
from proxyv.train.parameters import inner_matrices, parameter_groups, parameter_table, set_trainable, show_table
from proxyv.train.settings import accumulation, check_stage, global_batch, training_arguments
from tests.small_runs import ALL_GROUPS, PROXYV, page_recipe, stage
from tests.tiny import tiny_model

ZERO_2 = str(CHECKOUT / "configs" / "deepspeed" / "zero2.json")


def groups_of(model, spec):
    named = [(model.module_group(name), p) for name, p in model.named_parameters() if p.requires_grad]
    return parameter_groups(named, inner_matrices(model), spec)


@pytest.mark.parametrize("train", [["projector", "newline", "method"], ["llm"], ["tower"], ALL_GROUPS])
def test_exactly_the_named_groups_train(train):
    model, _ = tiny_model(method=PROXYV)
    set_trainable(model, stage([], train=train), "s")
    trained = {model.module_group(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(train)
    table = {row["group"]: row for row in parameter_table(model, stage([], train=train))}
    assert sum(row["total"] for row in table.values()) == sum(p.numel() for p in model.parameters())
    assert all((row["trainable"] > 0) == (name in train) for name, row in table.items())


def test_tower_layers_behind_the_features_stay_frozen():
    model, _ = tiny_model()
    set_trainable(model, stage([]), "s")
    frozen = {name for name, p in model.vision_tower.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if "layers.2" in name} and not {name for name in frozen if "layers.1" in name}


def test_table_says_that_full_has_no_method_parameters():
    model, _ = tiny_model()
    spec = stage([], train=["projector", "method"], learning_rate=1e-3, group_learning_rate={"projector": 5e-4})
    set_trainable(model, spec, "s")
    shown = show_table(parameter_table(model, spec))
    assert "no parameters" in shown and "0.0005" in shown
    with pytest.raises(UserError, match="stages.s.train: no parameter is in .*'method'"):
        set_trainable(model, stage([], train=["method"]), "s")


def test_groups_carry_rates_and_spare_norms_from_decay():
    model, _ = tiny_model(method=PROXYV)
    spec = stage([], learning_rate=1e-3, group_learning_rate={"method": 3e-4}, weight_decay=0.1)
    set_trainable(model, spec, "s")
    groups = groups_of(model, spec)
    assert {group["name"]: group["lr"] for group in groups} == {**dict.fromkeys(ALL_GROUPS, 1e-3), "method": 3e-4}
    for group in groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.1) for p in group["params"])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, trained)) == sorted(id(p) for group in groups for p in group["params"])


def test_muon_takes_inner_matrices_and_survives_saving():
    model, processor = tiny_model(method=PROXYV)
    spec = stage([], optimizer="muon")
    set_trainable(model, spec, "s")
    optimizer = make_optimizer(groups_of(model, spec), spec)
    assert isinstance(optimizer, MuonAdamW)
    inner = {id(p) for group in optimizer.param_groups if group["inner"] for p in group["params"]}
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    layer = model.language_model.model.layers[0]
    assert id(layer.mlp.up_proj.weight) in inner and not {id(head), id(embedding)} & inner

    def step(optimizer):
        for p in model.parameters():
            p.grad = None if not p.requires_grad else torch.ones_like(p) * 0.01
        optimizer.step()

    step(optimizer)
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, copy.deepcopy(optimizer.state_dict())
    step(optimizer)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    fresh = make_optimizer(groups_of(model, spec), spec)
    fresh.load_state_dict(state)
    step(fresh)
    assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())
    assert not torch.equal(weights["projector.up.weight"], expected["projector.up.weight"])


def test_muon_needs_a_torch_that_has_it(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    model, _ = tiny_model()
    with pytest.raises(UserError, match="'muon' needs torch 2.9"):
        make_optimizer(groups_of(model, stage([])), stage([], optimizer="muon"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(train=[]), "stages.s.train: names no module group; use some of tower, projector"),
        (dict(train=["projektor"]), "stages.s.train.0.: 'projektor' is unknown; did you mean 'projector'"),
        (
            dict(group_learning_rate={"lm": 1.0}),
            "stages.s.group_learning_rate: key 'lm' is unknown; did you mean 'llm'",
        ),
        (
            dict(train=["projector"], group_learning_rate={"projector": 1e-4, "llm": 1e-5}),
            "stages.s.group_learning_rate: 'llm' does not train; add it to stages.s.train, or leave out its rate",
        ),
        (dict(global_batch_size=6), "stages.s.global_batch_size: 6 is no multiple of micro_batch_size 4 × 1"),
        (dict(global_batch_size=0), "stages.s.global_batch_size: must be at least 1, found 0"),
        (dict(schedule="cosin"), "stages.s.schedule: 'cosin' is unknown; did you mean 'cosine'"),
        (dict(optimizer="adam"), "stages.s.optimizer: 'adam'.*'adamw'"),
        (dict(objective="language"), "stages.s.objective"),
        (dict(dtype="float16"), "stages.s.dtype: 'float16' is unknown; did you mean 'bfloat16'"),
        (dict(deepspeed="none.json"), "stages.s.deepspeed: none.json does not exist"),
        (dict(deepspeed="x" * 5000), "stages.s.deepspeed: must be a path that systems take"),
        (dict(deepspeed=ZERO_2, optimizer="muon"), "stages.s.optimizer: muon needs whole matrices.*use adamw"),
        (dict(objective="patch_classification"), "stages.s.train: patch_classification trains the tower alone"),
        (dict(objective="patch_classification", train=["tower"], save_steps=2), "neither deepspeed nor save_steps"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        check_stage(page_recipe(tmp_path, s=stage(["text"], **fields)), "s")


def test_a_launcher_variable_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="^WORLD_SIZE: the environment has 'two', no number"):
        world_size()


@pytest.mark.parametrize(
    ("variables", "message"),
    [({}, "no RANK"), ({"RANK": "5"}, "RANK or LOCAL_RANK is not below"), ({"LOCAL_RANK": "x"}, "no number")],
)
def test_half_a_launcher_is_refused(monkeypatch, variables, message):
    whole = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", **variables}
    for name, value in (whole if variables else {}).items() | {("WORLD_SIZE", "2")}:
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        connect()


def test_global_batch_is_micro_batches_times_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert accumulation(stage([], global_batch_size=48, micro_batch_size=3), "s") == 4


def test_a_micro_batch_alone_is_one_step(monkeypatch):
    spec = StageSpec(data=["text"], train=["llm"], micro_batch_size=8)
    assert (accumulation(spec, "s"), global_batch(spec)) == (1, 8)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (accumulation(spec, "s"), global_batch(spec)) == (1, 32)


def test_positions_are_read_from_the_pretrained_folder(tmp_path):
    recipe = page_recipe(tmp_path, s=stage(["text"], max_length=200))
    LlamaConfig(max_position_embeddings=128).save_pretrained(tmp_path / "llm")
    check_stage(recipe, "s")
    recipe.llm.pretrained, recipe.llm.config = str(tmp_path / "llm"), {}
    with pytest.raises(UserError, match="stages.s.max_length: 200 is more than the 128 positions"):
        check_stage(recipe, "s")


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    recipe = page_recipe(tmp_path, s=stage(["text"]))
    recipe.report_to = ["wandb"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="report_to: wandb is not installed; `pip install wandb`"):
        check_stage(recipe, "s")


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "trapezoid"])
def test_schedules(tmp_path, schedule):
    from transformers import get_scheduler

    recipe = page_recipe(tmp_path, s=stage(["text"], schedule=schedule, warmup_ratio=0.1))
    arguments = training_arguments(recipe, "s", tmp_path, steps=40)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(40),
        num_training_steps=40,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(41):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    expected = {
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * (t - 4) / 36)),
        "linear": lambda t: (40 - t) / 36,
        "constant": lambda t: 1.0,
        "trapezoid": lambda t: min(1.0, (40 - t) / 20),
    }[schedule]
    assert rates[4:] == pytest.approx([expected(t) for t in range(4, 41)], abs=1e-6)
