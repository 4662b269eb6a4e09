"""Gradients become ready in one order, whatever a batch holds: sharded training fills its buckets in that order, so
ranks whose order differs would add up pieces of different parameters."""

import pytest
import torch

from proxyv.model.families import FAMILIES
from proxyv.model.gradient_order import TextBatch, add_blank_image
from proxyv.train.parameters import set_trainable
from tests.contract.method_settings import method_fields
from tests.contract.test_methods import METHODS, text_labels
from tests.small_runs import stage
from tests.tiny import random_image, tiny_model

CHECKPOINTING = {"plain": None, "reentrant": True, "non-reentrant": False}
PROMPTS = {
    "images": (["<image>A", "A <image> B"], [[random_image(30, 30, 1)], [random_image(60, 20, 2)]]),
    "mixed": (["<image>A", "value of B"], [[random_image(30, 30, 1)], []]),
    "text": (["value of A", "B"], None),
}
WITHOUT_TOWER = ["projector", "newline", "method", "llm"]
every_method = pytest.mark.parametrize("name", METHODS)


def training_model(name, family="llama", train=WITHOUT_TOWER):
    """A tiny model in training mode, of which these groups train, and its processor."""
    model, processor = tiny_model(family, method_fields(name))
    set_trainable(model, stage([], train=train), "any")
    return model.train(), processor


def batch_of(processor, prompt):
    texts, images = PROMPTS[prompt]
    inputs = processor(text=texts, images=images)
    return {**inputs, "labels": text_labels(processor, inputs)}


def ready_order(model, batch):
    """Names of the trainable parameters in the order in which a backward pass has their gradients ready."""
    order = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    torch.manual_seed(5)  # methods may draw
    model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return order


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_one_order_with_images_without_and_mixed(name, family):
    model, processor = training_model(name, family)
    # Whether some or all samples have an image matters to methods; to one family as to another.
    prompts = PROMPTS if family == "llama" else ("mixed", "text")
    batches = {prompt: batch_of(processor, prompt) for prompt in prompts}
    for kind, reentrant in CHECKPOINTING.items():
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        orders = {prompt: ready_order(model, batch) for prompt, batch in batches.items()}
        assert set(orders["mixed"]) == trainable(model), kind  # none would leave other ranks waiting
        assert all(order == orders["mixed"] for order in orders.values()), kind


@every_method
@pytest.mark.parametrize("train", [["llm"], ["projector", "newline"], ["tower", *WITHOUT_TOWER]], ids="+".join)
def test_one_order_whatever_trains(name, train):
    model, processor = training_model(name, train=train)
    orders = {prompt: ready_order(model, batch_of(processor, prompt)) for prompt in PROMPTS}
    assert set(orders["mixed"]) == trainable(model)
    assert all(order == orders["mixed"] for order in orders.values())


def test_one_order_where_nothing_is_supervised():
    model, processor = training_model("proxyv")
    expected = ready_order(model, batch_of(processor, "images"))
    for prompt in PROMPTS:
        batch = batch_of(processor, prompt)
        assert ready_order(model, {**batch, "labels": torch.full_like(batch["labels"], -100)}) == expected, prompt


def loss_and_gradients(model, batch):
    torch.manual_seed(5)
    loss = model(**batch).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@every_method
def test_a_blank_image_changes_neither_loss_nor_gradients(name):
    """Of text, in float64, against the same without one; what is not the LLM's gets zeros."""
    model, processor = training_model(name)
    model.double()
    batch = batch_of(processor, "text")
    with_positions = {**batch, "position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}  # keep it as it is
    (loss, gradients), (expected, wanted) = (loss_and_gradients(model, inputs) for inputs in (batch, with_positions))
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-6)  # a loss is float32
    assert gradients.keys() == trainable(model) > wanted.keys()
    for key, gradient in gradients.items():
        want = wanted.get(key, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, want, atol=1e-12, rtol=0, msg=key)


@pytest.mark.parametrize("name, needed", [("full", False), ("visionzip", False), ("m3", False), ("proxyv", True)])
def test_text_is_left_alone_where_only_the_llm_trains(name, needed):
    """A stage of text costs what text costs, unless the method acts inside the LLM."""
    model, processor = training_model(name, train=["llm"])
    seen = []
    model.vision_tower.register_forward_hook(lambda *_: seen.append("tower"))
    batch = batch_of(processor, "text")
    model(**batch)
    assert bool(seen) == needed
    with torch.no_grad():
        model(**batch)
    assert len(seen) == needed  # no gradients, no order


def test_a_blank_image_stands_behind_longer_and_shorter_text():
    model, processor = tiny_model()
    rows = model.config.tokens_per_crop + 2
    for length in (3, rows + 4):
        ids = torch.full((2, length), 5)
        (padded, mask, labels), blank = add_blank_image(model.config, TextBatch(ids, None, ids))
        assert padded.shape == mask.shape == labels.shape == (3, max(length, rows))
        assert torch.equal(padded[:2, -length:], ids) and mask.sum(1).tolist() == [length, length, rows]
        assert (labels[2] == -100).all() and blank.shape == (1, 3, 56, 56)
