"""Non-spatial proxies where crops have different numbers of vision tokens: who is absent counts nowhere."""

import pytest
import torch

from proxyv.methods.proxyv_ns import LearnedProxies
from proxyv.model.vision import tower_blocks
from tests.tiny import random_image, tiny_model

METHOD = {
    "name": "combination",
    "before_llm": {"name": "prumerge", "neighbours": 3},
    # More queries than tokens are left of most crops.
    "inside_llm": {"name": "proxyv_ns", "start_layer": 1, "queries": 5, "hidden_ratio": 2},
}
SHARPER = 30  # the scores of its CLS token
PRUMERGE = METHOD["before_llm"]
TEXTS = ["A <image> B", "<image>C", "value of C", "<image>A <image> D"]
IMAGES = [[random_image(60, 40, 1)], [random_image(40, 40, 3)], [], [random_image(30, 90, 2), random_image(40, 40, 3)]]


def uneven_model(family, method=METHOD):
    """A model whose CLS token attends so unevenly that images have different numbers of outliers."""
    model, processor = tiny_model(family, method)
    with torch.no_grad():
        tower_blocks(model.vision_tower)[2].self_attn.q_proj.weight *= SHARPER
    counts = {int(count) for images in IMAGES if images for count in kept(model, processor, images)}
    assert len(counts) > 1, "the example must have crops of different numbers of tokens"
    return model, processor


def loss_and_gradients(model, processor, samples):
    """The summed loss of all text of some samples."""
    inputs = processor(text=[TEXTS[i] for i in samples], images=[IMAGES[i] for i in samples])
    ids, first = inputs["input_ids"], inputs["attention_mask"].cumsum(1) <= 1
    model.zero_grad()
    labels = ids.masked_fill(first | (ids == processor.image_token_id), -100)
    loss = model(**inputs, labels=labels, num_items_in_batch=1).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("plus", [False, True])
def test_a_padded_batch_equals_the_samples_alone_gradients_included(plus):
    model, processor = uneven_model("qwen2", {**METHOD, "before_llm": {**PRUMERGE, "plus": plus}})
    model.train()
    model.vision_tower.requires_grad_(False)
    loss, gradients = loss_and_gradients(model, processor, range(len(TEXTS)))
    alone = [loss_and_gradients(model, processor, [sample]) for sample in range(len(TEXTS))]
    torch.testing.assert_close(loss, sum(one for one, _ in alone), atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        expected = sum(found[name] for _, found in alone if name in found)
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def kept(model, processor, images):
    """Tokens that are left of each crop of some images."""
    inputs = processor(text=["<image>" * len(images)], images=[images])
    prompt = model.read_prompt(inputs["input_ids"], None, inputs["crops_per_image"])
    with torch.no_grad():
        return model.method.select(model, model.view(inputs["pixel_values"]), prompt).counts


def test_proxies_never_see_the_text_behind_their_image():
    """Five proxies of each crop, at consecutive positions, would reach beyond an image of fewer rows."""
    model, processor = tiny_model("llama", METHOD)
    short = processor(text=["A <image> B"], images=[IMAGES[0]])
    longer = processor(text=["A <image> BC"], images=[IMAGES[0]])
    crops = kept(model, processor, IMAGES[0])
    assert 5 * len(crops) > int(crops.sum()) + len(crops)
    with torch.no_grad():
        first, second = model(**short).logits, model(**longer).logits
    torch.testing.assert_close(second[:, : first.shape[1]], first, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [PRUMERGE, METHOD], ids=["prumerge", "combination"])
def test_answers_of_a_batch_are_those_of_the_samples_alone_cached_or_not(method):
    model, processor = uneven_model("qwen2", method)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    together = model.generate(**processor(text=TEXTS, images=IMAGES), **settings)[:, -3:]
    for text, images, answer in zip(TEXTS, IMAGES, together, strict=True):
        inputs = processor(text=[text], images=[images])
        ids = inputs["input_ids"]
        assert torch.equal(model.generate(**inputs, **settings)[0, -3:], answer)
        for token in answer:  # without a cache: the whole prompt and answer once more
            with torch.no_grad():
                logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0, -1]
            logits[processor.tokenizer.eos_token_id] = -torch.inf  # `generate` was told not to end
            assert logits.argmax() == token
            ids = torch.cat([ids, token[None, None]], 1)


def test_absent_tokens_are_not_pooled():
    """One query of width 1 that scores tokens by their value: the proxy of (0, ln 3) is 0 · ¼ + ln 3 · ¾, whatever
    stands in the third place."""
    pool = LearnedProxies(1, 1, 1)
    torch.nn.init.ones_(pool.queries)
    torch.nn.init.ones_(pool.key_proj.weight)
    vision = torch.tensor([[[0.0], [3.0], [99.0]]])
    vision[0, 1] = torch.log(vision[0, 1])
    vision.requires_grad_()
    proxies, _ = pool(vision, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(proxies, 0.75 * vision[:, 1:2])
    proxies.sum().backward()
    assert vision.grad[0, 2] == 0
