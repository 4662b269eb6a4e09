"""LoRA stages as users run them: where adapters lie, what trains, what a folder holds, resuming, merging."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from proxyv.checkpoints import merge
from proxyv.checkpoints.adapter_folder import is_adapter_folder, load_adapter_folder
from proxyv.checkpoints.load import load_for_evaluation
from proxyv.checkpoints.run_folder import find_model
from proxyv.cli import main
from proxyv.config import LoRASpec, load_recipe, save_recipe
from proxyv.errors import UserError
from proxyv.evaluation.answers import answer
from proxyv.model import ProxyVForConditionalGeneration, lora
from proxyv.model.lora import adapter_parameters, has_adapters
from proxyv.train import train
from proxyv.train.adapters import adapt
from proxyv.train.parameters import parameter_table, set_trainable, show_table
from proxyv.train.settings import check_stage
from proxyv.train.trainer import StageTrainer
from tests.small_runs import PROXYV, figures, page_recipe, read_log, stage
from tests.tiny import tiny_model

OURS = ["projector", "newline", "method"]


def lora_stage(data=("captions", "text"), train=(*OURS, "llm"), **fields):
    return stage(list(data), train=list(train), learning_rate=1e-2, lora=LoRASpec(rank=2, alpha=4), **fields)


def lora_recipe(folder, **fields):
    """A stage that leaves a whole model without ProxyV's modules trained, then a LoRA stage."""
    return page_recipe(folder, first=stage(["text"], train=["llm"], steps=1), second=lora_stage(**fields))


def test_fields_are_read_from_yaml_and_kept(tmp_path):
    recipe = page_recipe(tmp_path, s=lora_stage())
    recipe.stages["s"].lora.targets = ["q_proj", "projector"]
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    changed = load_recipe(tmp_path / "recipe.yaml", ["stages.s.lora.targets=all-linear", "stages.s.lora.rank=8"])
    assert changed.stages["s"].lora == LoRASpec(rank=8, alpha=4)
    with pytest.raises(UserError, match="unknown key 'stages.s.lora.rang'; did you mean 'rank'"):
        load_recipe(tmp_path / "recipe.yaml", ["stages.s.lora.rang=8"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rank=0), "stages.s.lora.rank: must be at least 1, found 0"),
        (dict(dropout=1.0), "stages.s.lora.dropout: must be less than 1, found 1.0"),
        (dict(targets=[]), r"stages.s.lora.targets: must have at least 1 item, found \[\]"),
        (dict(targets=3), "stages.s.lora.targets: must be a list, found 3"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        check_stage(page_recipe(tmp_path, s=stage(["text"], lora=LoRASpec(**fields))), "s")


def test_missing_peft_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"stages.s.lora: needs peft.*pip install 'proxyv\[train\]'"):
        train(page_recipe(tmp_path, s=lora_stage()))


def adapted(targets=("all-linear",), train_groups=(*OURS, "llm"), family="llama", rank=None):
    """A tiny model with adapters, its stage, and the names of the layers that have one."""
    pytest.importorskip("peft")
    model, _ = tiny_model(family, method=PROXYV)
    spec = lora_stage(train=train_groups)
    spec.lora.targets, spec.lora.rank = list(targets), rank or spec.lora.rank
    adapt(model, spec, "s", "somewhere", "anywhere")
    return model, spec, {name.split(".lora_")[0] for name in adapter_parameters(model)}


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_adapters_lie_on_the_llms_linear_layers_only(family):
    model, _, layers = adapted(family=family)
    linear = {
        name
        for name, module in tiny_model(family, method=PROXYV)[0].named_modules()
        if isinstance(module, torch.nn.Linear) and model.module_group(name) == "llm"
    }
    assert layers == linear - {"language_model.lm_head"}


def test_targets_by_name_mean_the_llm_and_other_groups_only_by_theirs():
    assert {name.split("layers.")[1] for name in adapted(["q_proj", "mlp.up_proj"])[2]} == {
        f"{layer}.{name}" for layer in range(3) for name in ("self_attn.q_proj", "mlp.up_proj")
    }
    assert {name.split(".")[0] for name in adapted(["projector"])[2]} == {"projector"}
    assert all("guided_update" in name for name in adapted(["method"])[2])
    assert len(adapted(["all-linear", "method"])[2]) == len(adapted()[2]) + len(adapted(["method"])[2])
    with pytest.raises(UserError, match="stages.s.lora.targets: 'q_pro' is no linear layer.*did you mean 'q_proj'"):
        adapted(["q_pro"])
    with pytest.raises(UserError, match="stages.s.lora.targets: 'lm_head' is no linear layer of the LLM"):
        adapted(["lm_head"])
    with pytest.raises(UserError, match="stages.s.train: lora puts adapters on 'llm'; add it"):
        adapted(train_groups=OURS)
    with pytest.raises(UserError, match="stages.s.lora.rank: 1000 is above the .* lower it"):
        adapted(rank=1000)


def test_adapted_groups_train_through_adapters_alone_and_the_table_says_so():
    model, spec, _ = adapted()
    spec.group_learning_rate["llm"] = 5e-4
    set_trainable(model, spec, "s")
    mine = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in mine or model.module_group(name) in OURS), name
    table = parameter_table(model, spec)
    rows = {row["group"]: row for row in table}
    assert rows["llm"]["trainable"] == sum(p.numel() for n, p in model.named_parameters() if n in mine)
    assert rows["llm"]["lora_rank"] == 2 and rows["projector"]["lora_rank"] is None
    assert "0.0005 (LoRA, rank 2)" in show_table(table)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose last stage trained adapters, with checkpoints."""
    pytest.importorskip("peft")
    recipe = lora_recipe(tmp_path_factory.mktemp("lora"), steps=5, save_steps=2)
    recipe.stages["second"].lora.dropout = 0.1  # resuming must go on with the same random numbers
    return train(recipe)


def test_the_folder_is_complete_and_small(trained):
    folder = find_model(trained)
    assert folder == trained / "second" and is_adapter_folder(folder)
    kept = {path.name for path in folder.iterdir()}
    assert {"config.json", "adapter", "trained.safetensors", "tokenizer_config.json", "log.jsonl"} <= kept
    assert not kept & {"model.safetensors", "base"}
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "../first"
    whole = sum(path.stat().st_size for path in (trained / "first").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors") if "checkpoint" not in str(path)) < whole
    assert read_log(trained, "second")[-1]["learning_rate/llm"] == 1e-2
    assert json.loads((folder / "finished.json").read_text())["parameters"][-1]["lora_rank"] == 2


def test_loading_gives_base_adapters_and_what_was_trained_beside_them(trained):
    model, base = load_adapter_folder(trained / "second"), load_adapter_folder(trained / "second")
    first = ProxyVForConditionalGeneration.from_pretrained(trained / "first").state_dict()
    moved = {"projector": set(), "newline": set(), "method": set(), "llm": set(), "tower": set()}
    for name, value in base.state_dict().items():
        if name in adapter_parameters(base):
            assert not torch.equal(value, torch.zeros_like(value)), name
        else:
            plain = name.replace(".base_layer", "")
            moved[model.module_group(name)].add(not torch.equal(value, first[plain]))
    assert moved == {"projector": {True}, "newline": {True}, "method": {True}, "llm": {False}, "tower": {False}}
    assert not model.training and same(model.state_dict(), base.state_dict())


def test_a_moved_run_and_its_checkpoints_load(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    expected = load_adapter_folder(trained / "second").state_dict()
    assert same(load_adapter_folder(moved / "second").state_dict(), expected)
    assert has_adapters(load_adapter_folder(find_model(moved / "second" / "checkpoint-4")))
    shutil.rmtree(moved / "first")
    with pytest.raises(UserError, match="adapter_config.json: base_model_name_or_path: '../first' is no model folder"):
        load_adapter_folder(moved / "second")


def test_peft_reads_the_adapter(trained):
    peft = pytest.importorskip("peft")
    ours = load_adapter_folder(trained / "second")
    theirs = ProxyVForConditionalGeneration.from_pretrained(trained / "first")
    theirs.load_state_dict(load_file(trained / "second" / "trained.safetensors"), strict=False)
    theirs = peft.PeftModel.from_pretrained(theirs, trained / "second" / "adapter").get_base_model()
    assert torch.equal(merge.made_up_logits(theirs), merge.made_up_logits(ours))


@pytest.mark.parametrize("file", ["trained.safetensors", "adapter/adapter_model.safetensors"])
def test_missing_unused_and_misshapen_weights_are_errors(trained, tmp_path, file):
    run = shutil.copytree(trained, tmp_path / "run")
    path = run / "second" / file
    weights = load_file(path)
    groups = {"groups": "projector newline method"}
    first, second, *_ = sorted(weights)
    del weights[first]
    weights[second] = torch.zeros(7)
    save_file({**weights, "what.weight": torch.zeros(1)}, path, metadata=groups)
    with pytest.raises(UserError, match=f"missing: {first}; unused: what.weight; misshapen: {second}"):
        load_adapter_folder(run / "second")
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter_folder(run / "second")


class InterruptedError_(Exception):
    """Stands for the power cut."""


def test_resumed_losses_and_weights_equal_uninterrupted_ones(trained, monkeypatch):
    cut, original = replace(load_recipe(trained / "recipe.yaml"), name="cut"), StageTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise InterruptedError_
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stopping)
    with pytest.raises(InterruptedError_):
        train(cut)
    monkeypatch.setattr(StageTrainer, "training_step", original)
    run = train(cut, resume=True)
    assert figures(run, "second") == figures(trained, "second")
    assert [entry["step"] for entry in read_log(run, "second")] == [1, 2, 3, 4, 5]
    expected = load_adapter_folder(trained / "second").state_dict()
    assert same(load_adapter_folder(run / "second").state_dict(), expected)


@pytest.mark.parametrize("fields", [dict(micro_batch_size=1), dict(gradient_checkpointing=True)])
def test_how_the_work_is_cut_leaves_losses_alone(tmp_path, fields):
    pytest.importorskip("peft")
    recipe = page_recipe(tmp_path, s=lora_stage(train=["llm"]))
    expected = figures(train(recipe), "s")
    cut = replace(recipe, name="cut", stages={"s": replace(recipe.stages["s"], **fields)})
    for one, other in zip(expected, figures(train(cut), "s"), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_a_fresh_model_and_a_stage_on_top(tmp_path):
    """Adapters on a model that no folder holds keep it as base/; the next LoRA stage starts from the merged model."""
    pytest.importorskip("peft")
    recipe = page_recipe(
        tmp_path,
        one=lora_stage(steps=2, train=[*OURS, "tower", "llm"]),
        two=lora_stage(steps=2, train=["llm"]),
        three=stage(["text"], steps=1),
    )
    run = train(recipe)
    assert (run / "one" / "base" / "config.json").is_file() and not (run / "two" / "base").exists()
    one, two = load_adapter_folder(run / "one"), load_adapter_folder(run / "two")
    assert not torch.equal(merge.made_up_logits(one), merge.made_up_logits(two))
    lora.merge_adapters(one)
    plain = {name: value for name, value in two.state_dict().items() if name not in adapter_parameters(two)}
    assert same(one.state_dict(), {name.replace(".base_layer", ""): value for name, value in plain.items()})
    assert not is_adapter_folder(run / "three") and ProxyVForConditionalGeneration.from_pretrained(run / "three")


def test_adapters_on_a_base_without_the_method(tmp_path):
    pytest.importorskip("peft")
    base = train(page_recipe(tmp_path, method={"name": "full"}, text=stage(["text"], steps=1)))
    recipe = page_recipe(tmp_path, adapted=lora_stage(steps=1, train=["llm"]))
    run = train(replace(recipe, name="later", start_from=str(base)))
    model = load_adapter_folder(run / "adapted")
    assert model.config.method["name"] == "proxyv"
    again = load_adapter_folder(run / "adapted")
    assert same(model.state_dict(), again.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_leaves_an_ordinary_model_with_the_same_answers(trained, tmp_path, capsys, dtype):
    target = tmp_path / "merged"
    main(["merge", str(trained), str(target), "--dtype", dtype, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["largest_difference"] <= told["tolerance"] < 0.1 * told["largest_logit"]
    merged, loaded = load_for_evaluation(target, "cpu"), load_for_evaluation(trained, "cpu")
    assert not has_adapters(merged.model) and has_adapters(loaded.model)
    assert str(merged.model.dtype) == f"torch.{dtype}" and merged.recipe["name"] == "tiny"
    assert not any("lora" in name or "base_layer" in name for name in merged.model.state_dict())
    if dtype == "float32":
        asked = ("value of A", [], 8)
        assert answer(merged.model, merged.processor, *asked) == answer(loaded.model, loaded.processor, *asked)
    main(["merge", str(trained / "second"), str(tmp_path / "again")])
    assert "merged logits differ from the adapted model's by" in capsys.readouterr().out


def test_merge_refuses_what_cannot_be_right(trained, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: exists already"):
        merge.merge_folder(trained, tmp_path / "there")
    with pytest.raises(UserError, match="first: holds a whole model, no adapter"):
        merge.merge_folder(trained / "first", tmp_path / "m")
    with pytest.raises(UserError, match="dtype: 'int8' is unknown"):
        merge.merge_folder(trained, tmp_path / "m", "int8")

    def wrong(model):
        lora.merge_adapters(model)
        model.language_model.lm_head.weight.data *= 1.01

    monkeypatch.setattr(merge, "merge_adapters", wrong)
    with pytest.raises(UserError, match="merged logits differ by .*, more than"):
        merge.merge_folder(trained, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_merge_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["merge", "--help"])
    assert stop.value.code == 0 and "example: proxyv merge" in " ".join(capsys.readouterr().out.split())


def test_adapters_load_in_8_bit_merged(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    recipe = lora_recipe(tmp_path, steps=1)
    loaded = load_for_evaluation(train(recipe), "cpu", load_in="8bit")
    kind = type(loaded.model.language_model.model.layers[0].self_attn.q_proj).__name__
    assert kind == "Linear8bitLt" and not has_adapters(loaded.model)
    assert merge.made_up_logits(loaded.model).isfinite().all()
