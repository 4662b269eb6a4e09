"""Every method on every LLM family, with every field of the family's configuration away from its default: what it
computes for text is what Hugging Face's own LLM computes. A family whose parts are not stated right fails here."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional as F

from proxyv.errors import UserError
from proxyv.methods import method_classes
from proxyv.methods.shared.text_queries import TextQueryMethod
from proxyv.model.blocks import Block
from proxyv.model.families import FAMILIES, Family
from tests.contract.family_fields import DROPOUT, LEFT_OUT, REFUSED, VALUES, build, fields, perturbed, stock_llm
from tests.contract.method_settings import SHIPPED, method_fields

TEXT = torch.tensor([[1, 9, 14, 7, 22, 11]])  # shorter than any window that a tiny family has
IMAGE_ROWS = 17  # one crop of 4 × 4 patches and a newline
every_family = pytest.mark.parametrize("family", FAMILIES)
# Methods whose layers take some rows only; in the last layer, text reads what it always does.
TEXT_QUERIES = [n for n, m in method_classes().items() if n in SHIPPED and issubclass(m, TextQueryMethod)]


def all_at_once(family):
    """Every field that is not refused, at its first value."""
    return {name: values[0] for name, values in perturbed(family).items() if name not in REFUSED}


def with_image(model, behind=(5, 8, 3)):
    """Inputs: the text, one image, and some text behind it."""
    image = [model.config.image_token_id] * IMAGE_ROWS
    crops = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(4))
    ids = torch.cat([TEXT, torch.tensor([image + list(behind)])], 1)
    return {"input_ids": ids, "pixel_values": crops, "crops_per_image": [1]}


def close(found, expected, what, atol=2e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4, msg=lambda shown: f"{what}: {shown}")


@contextmanager
def told(*where):
    """Says of a failure where it is, and what to look at."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(
            f"{', '.join(map(str, where))}: not what Hugging Face's own LLM computes; does the family's entry in "
            f"proxyv/model/families.py state its parts as the layer has them?\n{error}"
        ) from None


def equals_stock(model, expected):
    """Text alone, and the text before an image; `expected` are the logits of text alone."""
    with torch.no_grad():
        close(model(input_ids=TEXT).logits, expected, "text alone")
        close(model(**with_image(model)).logits[:, : TEXT.shape[1]], expected, "text before an image")


def logits_of(llm):
    with torch.no_grad():
        return llm(TEXT).logits


def test_every_field_is_known():
    """A field of a new release or a new family must be looked at; nothing is named that no family has."""
    assert all(map(perturbed, FAMILIES))
    assert set().union(*map(fields, FAMILIES)) >= {*VALUES, *LEFT_OUT, *DROPOUT}


@every_family
def test_each_field_alone(family):
    """With proxies from the first layer on. Each value changes what the plain LLM computes, or would show nothing."""
    usual = logits_of(stock_llm(family, {}))
    for name, values in {"nothing": [None], **perturbed(family)}.items():
        for value in values:
            changed = {} if name == "nothing" else {name: value}
            llm = stock_llm(family, changed)
            expected = logits_of(llm)
            if changed and name not in REFUSED:
                assert not torch.allclose(expected, usual, atol=1e-3), (family, name, value)
            with told(family, name, value):
                if name in REFUSED:
                    with pytest.raises(UserError, match=name):
                        build(family, method_fields("full"), changed, llm)
                    continue
                model = build(family, method_fields("proxyv", start_layer=0), changed, llm)
                equals_stock(model, expected)
                with torch.no_grad():
                    loss = model(input_ids=TEXT, labels=TEXT).loss
                close(loss, F.cross_entropy(expected[0, :-1], TEXT[0, 1:]), "the loss")


@every_family
def test_every_method_with_all_fields_at_once(family):
    changed = all_at_once(family)
    llm = stock_llm(family, changed)
    expected = logits_of(llm)
    for name in SHIPPED:
        model = build(family, method_fields(name), changed, llm)
        with told(family, name):
            equals_stock(model, expected)
            if not model.method.prompt_aware:  # a longer question would choose other vision tokens
                decoding_equals_one_pass(model)


def decoding_equals_one_pass(model):
    """Behind an image."""
    short, longer = with_image(model), with_image(model, behind=(5, 8, 3, 12, 6))
    with torch.no_grad():
        expected = model(**longer, logits_to_keep=2).logits
        cache = model(**short, use_cache=True).past_key_values
        found = [model(input_ids=ids, past_key_values=cache).logits for ids in torch.tensor([[[12]], [[6]]])]
    close(torch.cat(found, 1), expected, "decoding")


@every_family
def test_text_behind_an_image_in_the_last_layer(family):
    """Nothing reads what the last layer makes of vision tokens: text must come out as from the plain layers. This
    holds the keys and values of vision tokens to the family's own, too."""
    changed = all_at_once(family)
    llm = stock_llm(family, changed)
    full = build(family, {"name": "full"}, changed, llm)
    inputs, text = with_image(full), [*range(TEXT.shape[1]), -4, -3, -2, -1]
    with torch.no_grad():
        first = full(**inputs, use_cache=True)
        then = full(input_ids=torch.tensor([[12]]), past_key_values=first.past_key_values).logits
        for name in TEXT_QUERIES:
            model = build(family, method_fields(name, start_layer=2), changed, llm)
            model.load_state_dict(full.state_dict(), strict=False)  # the projector's, too
            found = model(**inputs, use_cache=True)
            decoded = model(input_ids=torch.tensor([[12]]), past_key_values=found.past_key_values).logits
            with told(family, name):
                close(found.logits[:, text], first.logits[:, text], "text behind an image")
                close(decoded, then, "decoding")


@every_family
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])  # rank by keys that are there, or computed once more
def test_attention_that_ranks_is_the_layers_own(family, method):
    """The scores of vision tokens are the weights that eager attention returns."""
    changed = all_at_once(family)
    llm = stock_llm(family, changed)
    settings = {"fastv": {"layer": 2}, "pyramiddrop": {"layers": [2], "keep": [0.5]}}[method]
    layer = {"fastv": 1, "pyramiddrop": 2}[method]
    model, full = (build(family, fields, changed, llm) for fields in ({"name": method, **settings}, {"name": "full"}))
    full.load_state_dict(model.state_dict())
    full.set_attn_implementation("eager")
    ranked = []
    ranking = model.language_model.model.layers[layer].ranking
    ranking.register_forward_hook(lambda module, arguments, scores: ranked.append(scores))
    inputs = with_image(model)
    with torch.no_grad():
        model(**inputs)
        weights = full(**inputs, output_attentions=True).attentions[layer]
    with told(family, method):
        vision = weights[0].mean(0)[-1, TEXT.shape[1] : TEXT.shape[1] + IMAGE_ROWS - 1]
        close(ranked[0][0], vision, "attention that vision tokens get", atol=1e-6)


@every_family
def test_dropout_is_the_layers_own(family):
    """At nearly all, a pass of training is no chance: what it drops is gone."""
    for name in set(DROPOUT) & fields(family).keys():
        changed = {name: 1 - 1e-9}
        llm = stock_llm(family, changed)
        expected = logits_of(llm.train())
        assert not torch.allclose(expected, logits_of(llm.eval()), atol=1e-3)
        for method in ("proxyv", "fastv"):
            with told(family, method, name):
                equals_stock(build(family, method_fields(method), changed, llm).train(), expected)


@every_family
@pytest.mark.parametrize("method", ["proxyv", "fastv"])
def test_checkpointing_keeps_gradients(family, method):
    changed = all_at_once(family)
    model = build(family, method_fields(method), changed, stock_llm(family, changed)).train()
    inputs = with_image(model)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, name)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "sliding_window" in fields(family)])
def test_a_window_is_taken_out_whatever_it_is(family):
    """Text longer than the windows, against the plain LLM whose window it does not reach."""
    text = torch.arange(3, 43)[None]
    wide = stock_llm(family, {"sliding_window": 4096})
    with torch.no_grad():
        expected = wide(text).logits
        for window in (None, 1, 8, 4096):
            found = build(family, method_fields("proxyv"), {"sliding_window": window}, wide)(input_ids=text).logits
            with told(family, window):
                close(found, expected, "text alone")


def stated_parts():
    """Every part that a family states differently from Llama: (family, part, the family without it)."""
    found = []
    for name, family in FAMILIES.items():
        for field in dataclasses.fields(Family):
            if field.name != "block" and getattr(family, field.name) != field.default:
                found.append((name, field.name, dataclasses.replace(family, **{field.name: field.default})))
        for field in dataclasses.fields(Block):
            if getattr(family.block, field.name) != field.default:
                block = dataclasses.replace(family.block, **{field.name: field.default})
                found.append((name, field.name, dataclasses.replace(family, block=block)))
    return found


@pytest.mark.parametrize("family, part, without", stated_parts(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_part_that_is_not_stated_is_found(family, part, without, monkeypatch):
    """By one of the tests above, or because the layer has no such module."""
    monkeypatch.setitem(FAMILIES, family, without)
    with pytest.raises((AssertionError, AttributeError, ValueError)):
        test_dropout_is_the_layers_own(family)
        test_text_behind_an_image_in_the_last_layer(family)
        test_every_method_with_all_fields_at_once(family)
