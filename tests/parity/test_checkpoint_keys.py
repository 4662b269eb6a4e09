"""Every key of the authors' full-size checkpoints has its place in ours: names and shapes, on the meta device."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.convert.authors import authors_translation
from proxyv.convert.authors_config import authors_config
from proxyv.convert.folder import meta_model
from proxyv.convert.plan import ConversionPlan, Part
from proxyv.errors import UserError
from proxyv.model.sub_configs import sub_config
from tests.parity.recordings import golden_folder

KEYS = golden_folder() / "checkpoint_keys.json"
pytestmark = pytest.mark.skipif(not KEYS.exists(), reason=f"there is no {KEYS}")

# Checkpoint → our LLM configuration and the authors' model type.
LLMS = {
    "vicuna-7b": ("vicuna-7b", "llava_llama"),
    "vicuna-13b": ("vicuna-13b", "llava_llama"),
    "llama3-8b": ("llama3-8b", "llava_llama"),
    "qwen2-7b": ("qwen2-7b", "llava_qwen"),
    "phi3-mini": ("phi3-3b", "llava_phi"),
}
UPDATE = ("context_proj", "input_proj", "proj.0", "proj.2", "layernorm_post")


@dataclasses.dataclass(frozen=True)
class Outline:
    """Stands for weight files of these names and shapes."""

    tensors: dict
    files: tuple = (Path("all"),)

    def outline(self, file):
        return self.tensors


def expand(patterns):
    """{"a.{i}.b": {shape, count}} → {"a.0.b": meta tensor, …}"""
    found = {}
    for pattern, of in patterns.items():
        for index in range(of["count"]):
            name = pattern.replace("{i}", str(index)).replace("{j}", str(index))
            assert name not in found
            found[name] = torch.empty(of["shape"], dtype=torch.bfloat16, device="meta")
    return found


@pytest.fixture(scope="module")
def recorded():
    return json.loads(KEYS.read_text())


def full_size(recorded, repo, llm, learn):
    """A checkpoint's config.json and all its keys, tower included."""
    title = next(name for name in recorded if name.startswith(f"{llm} "))
    tower = next(name for name in recorded if name.startswith("vision tower"))
    keys = {**expand(recorded[title]["keys"]), **expand(recorded[tower]["keys"])}
    if not learn:  # the recording lists spatial and learned proxies together
        keys = {name: tensor for name, tensor in keys.items() if "proxyv_initializer" not in name}
    config, model_type = LLMS[llm]
    text = load_recipe(repo / f"configs/llm/{config}.yaml").llm.config
    theirs = {
        **{key: value for key, value in text.items() if key not in ("model_type", "rope_parameters")},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "model_type": model_type,
        "proxyv": True,
        "learn_proxy": learn,
        "proxyv_start_layer": int(title.split("start ")[1].rstrip(")")),
        "proxyv_reduce_factor": 4,
        "mm_vision_select_layer": -2,
    }
    return theirs, keys


def plan_of(theirs, keys, repo):
    tower = load_recipe(repo / "configs/vision/clip-l-336.yaml").vision.config
    model = meta_model(authors_config(theirs, sub_config(tower, "tower"), keys))
    return ConversionPlan("checkpoint", model, [Part(Outline(keys), authors_translation(model))], torch.bfloat16)


def test_every_recorded_checkpoint_is_here(recorded):
    titles = {title.split(" (")[0] for title in recorded if not title.startswith("vision tower")}
    assert titles == set(LLMS)


@pytest.mark.parametrize("learn", [False, True], ids=["spatial", "learned"])
@pytest.mark.parametrize("llm", LLMS)
def test_full_size_keys(recorded, repo, llm, learn):
    theirs, keys = full_size(recorded, repo, llm, learn)
    plan = plan_of(theirs, keys, repo)
    plan.check()  # nothing missing, nothing misshapen, nothing unknown
    left_out = {name for name, tensor in keys.items() if plan.parts[0].translate(name, tensor) == {}}
    last = theirs["num_hidden_layers"] - theirs["proxyv_start_layer"] - 1
    assert left_out == {f"model.vision_mlp_layers.{last}.{part}.weight" for part in UPDATE}
    assert plan.model.method.name == ("proxyv_ns" if learn else "proxyv")
    title = next(name for name in recorded if name.startswith(f"{llm} "))
    added = sum(p.numel() for name, p in plan.model.named_parameters() if "guided_update" in name)
    dropped = sum(keys[name].numel() for name in left_out)
    assert added + dropped == recorded[title]["proxyv_params"]


def test_all_faults_are_listed_at_once(recorded, repo):
    theirs, keys = full_size(recorded, repo, "vicuna-7b", False)
    del keys["model.layers.31.self_attn.q_proj.weight"]
    keys["model.norm.weight"] = torch.empty(1, device="meta")
    keys["optimizer.state"] = torch.empty(1, device="meta")
    keys["model.layers.32.mlp.up_proj.weight"] = torch.empty(1, device="meta")
    with pytest.raises(UserError) as error:
        plan_of(theirs, keys, repo).check()
    told = str(error.value)
    assert "missing: language_model.model.layers.31.self_attn.q_proj.weight" in told
    assert "unused: language_model.model.layers.32.mlp.up_proj.weight, optimizer.state" in told
    assert "misshapen: language_model.model.norm.weight (1,) for (4096,)" in told
    assert "\n" not in told
