"""What every method in proxyv/methods must keep, found by looking in the folder."""

import dataclasses
import inspect
import sys

import pytest
import torch

from proxyv.methods import describe_method, make_method, method_classes
from proxyv.model.families import FAMILIES
from tests.tiny import picture, tiny_model

# Fields that fit the tiny model: three layers, crops of 4 × 4 vision tokens, width 32. And, for every field, another
# value that must change what is built or what comes out.
FITTING = {
    "start_layer": 1,
    "downsample": 2,
    "hidden_ratio": 2,
    "queries": 3,
    "proxies_see_vision": False,
    "text_sees_proxies": False,
    "initialisation": "bilinear",
}
OTHER = {
    "start_layer": 0,
    "downsample": 4,
    "hidden_ratio": 4,
    "queries": 5,
    "proxies_see_vision": True,
    "text_sees_proxies": True,
    "initialisation": "area",
}

every_method = pytest.mark.parametrize("name", sorted(method_classes()))
every_family = pytest.mark.parametrize("family", FAMILIES)


def fields_of(name):
    return {field.name: FITTING[field.name] for field in dataclasses.fields(method_classes()[name])}


def batch(processor):
    return processor(
        text=["A <image> B", "<image>C", "value of C"], images=[[picture(60, 40, 1)], [picture(30, 90)], []]
    )


@every_method
def test_header_names_paper_and_deviations(name):
    header = inspect.getdoc(sys.modules[method_classes()[name].__module__]) or ""
    assert "arXiv" in header and "Deviations" in header


@every_method
def test_described_and_made_again(name):
    method = make_method({"name": name, **fields_of(name)})
    assert make_method(describe_method(method)) == method
    assert make_method({"name": name}) == method_classes()[name]()  # builds from defaults


@every_method
@every_family
def test_every_trainable_parameter_moves_in_one_step(name, family):
    model, processor = tiny_model(family, {"name": name, **fields_of(name)})
    model.train()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(model.module_group(parameter_name) != "tower")
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    inputs = batch(processor)
    loss = model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not still and torch.isfinite(loss)


@every_method
@pytest.mark.parametrize("field", sorted(OTHER))
def test_every_field_changes_shapes_or_numbers(name, field):
    fields = fields_of(name)
    if field not in fields:
        pytest.skip(f"{name} has no field {field}")
    if field == "initialisation":  # at a factor of 2, both are the mean of four tokens
        fields["downsample"] = 4
    model, processor = tiny_model("llama", {"name": name, **fields})
    other, _ = tiny_model("llama", {"name": name, **fields, field: OTHER[field]})
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (model, other)]
    if shapes[0] == shapes[1]:
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            numbers = [m(**batch(processor), logits_to_keep=1).logits for m in (model, other)]
        assert not torch.allclose(*numbers)


@every_method
def test_text_only_is_the_plain_model(name):
    """Without images a method changes nothing: the LLM's own logits."""
    model, processor = tiny_model("llama", {"name": name, **fields_of(name)})
    inputs = processor(text=["value of C"])
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, model.language_model(**inputs).logits)


@every_method
def test_every_text_row_gets_logits_in_reading_order(name):
    """Text is never dropped, and a later text token never changes an earlier row."""
    model, processor = tiny_model("llama", {"name": name, **fields_of(name)})
    image = [[picture()]]
    short = processor(text=["A <image> B"], images=image)
    longer = processor(text=["A <image> BC"], images=image)
    with torch.no_grad():
        first, second = model(**short).logits, model(**longer).logits
    assert first.shape[1] == short["input_ids"].shape[1]
    torch.testing.assert_close(second[:, : first.shape[1]], first, atol=1e-5, rtol=1e-4)
