"""A hub folder: complete, loadable in another process with the same logits, and honest about what it needs."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from proxyv.checkpoints.export import export
from proxyv.cli import main
from proxyv.config import save_recipe
from proxyv.errors import UserError
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe
from tests.warm import python

LOAD = """
import sys, torch
from safetensors.torch import load_file, save_file
from proxyv import ProxyVForConditionalGeneration, ProxyVProcessor
model = ProxyVForConditionalGeneration.from_pretrained(sys.argv[1]).eval()
ProxyVProcessor.from_pretrained(sys.argv[1])
inputs = load_file(sys.argv[2])
with torch.no_grad():
    save_file({"logits": model(**inputs).logits}, sys.argv[3])
"""


@pytest.fixture
def run_folder(tmp_path):
    """A run folder as training leaves it, with one benchmark's result."""
    run = tmp_path / "runs" / "tiny"
    model, processor = tiny_model("llama", METHODS[1])
    stage = run / "finetune"
    model.save_pretrained(stage)
    processor.save_pretrained(stage)
    (stage / "log.jsonl").write_text("{}\n")
    (stage / "finished.json").write_text("{}")
    recipe = tiny_recipe("llama", METHODS[1])
    recipe.llm.pretrained, recipe.vision.pretrained = "someone/an-llm", str(tmp_path)
    recipe.stages = {"finetune": small_stage()}
    save_recipe(recipe, run / "recipe.yaml")
    result = {"kind": "benchmark", "complete": True, "benchmark": "reading", "title": "Reading", "main": "accuracy"}
    result |= {"main_score": 61.25, "scale": 100, "scores": {"accuracy": 0.6125}, "num_samples": 8}
    (run / "eval").mkdir()
    (run / "eval" / "reading.json").write_text(json.dumps(result))
    return run, model, processor


def small_stage():
    from proxyv.config import StageSpec

    return StageSpec(data=["pages"], train=["projector", "method"], learning_rate=1e-3, steps=7)


def test_exported_folder_gives_the_same_logits_in_another_process(tmp_path, run_folder, repo):
    from safetensors.torch import load_file, save_file

    run, model, processor = run_folder
    target = export(run, tmp_path / "hub", hub_name="me/tiny")
    inputs = dict(processor(text="<image>what is in A 1", images=random_image()))
    save_file({name: value.contiguous() for name, value in inputs.items()}, tmp_path / "inputs.safetensors")
    done = python("-c", LOAD, str(target), str(tmp_path / "inputs.safetensors"), str(tmp_path / "out"), folder=repo)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        want = model(**inputs).logits
    assert torch.equal(load_file(tmp_path / "out")["logits"], want)
    held = {path.name for path in target.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md", "LICENSE"} <= held
    assert {"chat_template.jinja", "tokenizer.json", "recipe.yaml"} <= held
    assert not {"log.jsonl", "finished.json"} & held
    assert "auto_map" not in (target / "config.json").read_text()


def test_results_that_contradict_themselves_are_not_passed_on(tmp_path, run_folder):
    run, *_ = run_folder
    file = run / "eval" / "reading.json"
    file.write_text(file.read_text().replace("61.25", "91.25"))
    with pytest.raises(UserError, match=r"reading\.json: .*main_score"):
        export(run, tmp_path / "hub", hub_name="me/tiny")


def test_model_card(tmp_path, run_folder):
    run, *_ = run_folder
    export(run, tmp_path / "hub", hub_name="me/tiny", license_id="apache-2.0")
    card = (tmp_path / "hub" / "README.md").read_text()
    front = OmegaConf.create(card.split("---\n")[1])
    assert front.pipeline_tag == "image-text-to-text" and front.library_name == "proxyv"
    assert front.license == "apache-2.0"
    assert list(front.base_model) == ["someone/an-llm"]  # the tower is a folder of this machine
    assert 'from_pretrained("me/tiny")' in card
    assert "| Reading (accuracy) |" in card and "61.2" in card
    assert (
        "**finetune**: trains projector, method on pages; learning rate 0.001, batch 1 of each process, 7 steps" in card
    )
    assert "vLLM" in card and "install the `proxyv` package" in card
    assert str(tmp_path) not in card
    assert "someone/an-llm" in (tmp_path / "hub" / "LICENSE").read_text()


def test_a_model_folder_without_a_run(tmp_path, run_folder):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "alone")
    with pytest.raises(UserError, match="has no processor"):
        export(tmp_path / "alone", tmp_path / "hub")
    processor.save_pretrained(tmp_path / "alone")
    export(tmp_path / "alone", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "No results are recorded" in card and "holds no recipe" in card and "base_model" not in card


def test_wrong_input(tmp_path, run_folder, capsys):
    run, model, _ = run_folder
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "none"), str(tmp_path / "hub")])
    assert stop.value.code == 2 and "neither a model folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not empty"):
        export(run, run)
    (run / "finetune" / "adapter").mkdir()
    (run / "finetune" / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="run `proxyv merge` first"):
        export(run, tmp_path / "hub")
    (run / "finetune" / "adapter" / "adapter_config.json").unlink()
    del model.projector
    model.save_pretrained(run / "finetune")
    with pytest.raises(UserError, match="missing: projector.down.bias"):
        export(run, tmp_path / "hub")
    (run / "finetune" / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UserError, match="convert it first"):
        export(run, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_help_says_that_loading_needs_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "needs proxyv installed" in " ".join(capsys.readouterr().out.split())
