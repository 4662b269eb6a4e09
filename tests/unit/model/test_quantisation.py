"""Loading in 8 and 4 bit: which layers are quantised, and what is said where bitsandbytes is missing."""

import importlib.util

import pytest
import torch
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from proxyv.checkpoints.load import load_for_evaluation
from proxyv.errors import UserError
from proxyv.model import quantisation
from proxyv.model.build import build_model, build_processor
from tests.tiny import METHODS, tiny_model, tiny_recipe


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_exactly_the_llms_layers_without_its_head_are_quantised(family, method):
    model, _ = tiny_model(family, method)
    skipped = quantisation.unquantised_modules(model.config)
    groups = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            groups.add(model.module_group(name))
            left_alone = model.module_group(name) != "llm" or name == "language_model.lm_head"
            assert (name in skipped) == left_alone
            assert should_convert_module(name, skipped) != left_alone  # as transformers reads the list
    assert groups == {"tower", "projector", "llm"} | ({"method"} if method["name"] != "full" else set())


def test_wrong_words_and_a_missing_package_give_one_line(tmp_path, monkeypatch):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="load_in: '3bit' is unknown; use 8bit or 4bit"):
        load_for_evaluation(tmp_path, load_in="3bit")
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"load_in: 8bit needs bitsandbytes.*pip install 'proxyv\[quant\]'"):
        load_for_evaluation(tmp_path, load_in="8bit")


def wide_model():
    """4 bit works on blocks of 64 weights: a width of 64."""
    recipe = tiny_recipe(method=METHODS[1])
    recipe.llm.config.update(hidden_size=64, intermediate_size=128, initializer_range=0.05)
    torch.manual_seed(0)
    processor = build_processor(recipe)
    return build_model(recipe, image_token_id=processor.image_token_id).eval(), processor


def logits_of(model):
    from proxyv.checkpoints.merge import made_up_logits

    return made_up_logits(model)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize(("load_in", "kind", "near"), [("8bit", "Linear8bitLt", 0.05), ("4bit", "Linear4bit", 0.5)])
def test_quantised_model_answers_much_like_the_whole_one(tmp_path, load_in, kind, near):
    model, processor = wide_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = load_for_evaluation(tmp_path, device="cpu", load_in=load_in).model
    kinds = {
        (found.module_group(name), type(module).__name__)
        for name, module in found.named_modules()
        if "Linear" in type(module).__name__ and name != "language_model.lm_head"
    }
    assert kinds == {("llm", kind), ("tower", "Linear"), ("projector", "Linear"), ("method", "Linear")}
    expected = logits_of(model)
    difference = (logits_of(found) - expected).abs().max() / expected.abs().max()
    assert 0 < difference < near
    for name, value in found.state_dict().items():
        if found.module_group(name) != "llm":
            assert torch.equal(value, model.state_dict()[name])
