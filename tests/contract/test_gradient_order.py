"""Gradients become ready in one order, whatever a batch holds: sharded training fills its buckets in that order, so
ranks whose order differs would add up pieces of different parameters."""

import pytest
import torch

from proxyv.model.families import FAMILIES
from tests.contract.method_settings import method_fields
from tests.contract.test_methods import METHODS, inputs_of, text_labels
from tests.tiny import tiny_model

CHECKPOINTING = {"plain": None, "reentrant": True, "non-reentrant": False}


def ready_order(model, processor, prompt, labelled=True):
    """Names of the trainable parameters in the order in which a backward pass has their gradients ready."""
    order = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    inputs = inputs_of(processor, prompt)
    labels = text_labels(processor, inputs)
    torch.manual_seed(5)  # methods may draw
    model(**inputs, labels=labels if labelled else torch.full_like(labels, -100)).loss.backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return order


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_one_order_with_images_without_and_mixed(name, family, checkpointing):
    reentrant = CHECKPOINTING[checkpointing]
    model, processor = tiny_model(family, method_fields(name))
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(model.module_group(parameter_name) != "tower")
    orders = {prompt: ready_order(model, processor, prompt) for prompt in ("none", "batch")}
    orders["nothing supervised"] = ready_order(model, processor, "none", labelled=False)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert sorted(set(orders["batch"])) == sorted(trainable)
    for prompt, order in orders.items():
        assert order == orders["batch"], prompt
