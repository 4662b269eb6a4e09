"""What the contract tests leave open for methods whose decoder layers, or caches, have rows of their own."""

import pytest
import torch

from tests.tiny import random_image, tiny_model

METHODS = [
    {"name": "fastv", "layer": 1, "drop": 0.5},
    {"name": "pyramiddrop", "layers": [1, 2], "keep": [0.5, 0.25]},
    {"name": "g_search", "shares": [1.0, 1.0, 0.4]},
    {"name": "p_sigmoid", "steepness": 1.0, "budget": 0.6, "full_layers": 1},
    {"name": "videollm_mod", "keep": 0.3},
    {"name": "videollm_mod", "keep": 0.3, "layers": "all", "weighting": "bounded"},
    {"name": "voco_llama", "tokens": 2},
]
SAMPLES = [
    ("A <image> B", [random_image(60, 40, 1)]),
    ("value of C", []),
    ("<image>A<image>", [random_image(40, 40, 2), random_image(90, 30, 3)]),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])


def one_by_one(processor):
    return [processor(text=[text], images=[images] if images else None) for text, images in SAMPLES]


def together(processor):
    return processor(text=[text for text, _ in SAMPLES], images=[images for _, images in SAMPLES])


@every_method
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_beam_search_scores_what_it_returns(method, family):
    """Beams reorder the cache of every layer: the score of the best one is that of its tokens in one pass."""
    model, processor = tiny_model(family, method)
    # A random model may well say the placeholder, which a prompt must not have without an image.
    options = dict(
        suppress_tokens=[processor.image_token_id], num_beams=3, max_new_tokens=5, length_penalty=0.0, eos_token_id=None
    )
    options |= dict(return_dict_in_generate=True, output_scores=True, do_sample=False)
    with torch.no_grad():
        batch = model.generate(**together(processor), **options)
        for sample, inputs in enumerate(one_by_one(processor)):
            alone = model.generate(**inputs, **options)
            answer = alone.sequences[:, inputs["input_ids"].shape[1] :]
            assert torch.equal(batch.sequences[sample, -5:], answer[0])
            labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], 1)
            ones = torch.ones_like(alone.sequences)
            whole = dict(inputs, input_ids=alone.sequences, attention_mask=ones)
            loss = model(**whole, labels=labels, num_items_in_batch=1).loss
            torch.testing.assert_close(alone.sequences_scores[0], -loss, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(batch.sequences_scores[sample], -loss, atol=1e-4, rtol=1e-4)


@every_method
def test_a_batch_padded_on_the_right_trains_alike(method):
    """Every text token supervised, the first of a sample too: nothing predicts it, wherever the padding stands."""
    model, processor = tiny_model("qwen2", method)
    left = together(processor)
    sizes = left["attention_mask"].sum(1)
    order = (1 - left["attention_mask"]).argsort(dim=1, stable=True)
    right = dict(left, input_ids=left["input_ids"].gather(1, order))
    right["attention_mask"] = left["attention_mask"].gather(1, order)
    assert all(row[:size].all() for row, size in zip(right["attention_mask"], sizes, strict=True))
    losses, gradients = [], []
    for inputs in (left, right):
        model.zero_grad()
        text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != processor.image_token_id)
        loss = model.train()(**inputs, labels=inputs["input_ids"].masked_fill(~text, -100)).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-3)


@every_method
def test_flex_attention_agrees_with_eager(method):
    """Uncompiled: compiling for a processor takes minutes, and fails in some torch releases."""
    model, processor = tiny_model("qwen2", method)
    if "dense_mask" in model.method.needs:
        pytest.skip(f"{model.method.name} refuses it")
    inputs = together(processor)
    logits, tokens = [], []
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for back_end in ("eager", "flex_attention"):
            model.set_attn_implementation(back_end)
            logits.append(model(**inputs, logits_to_keep=1).logits)
            tokens.append(model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)[:, -4:])
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(*tokens)
