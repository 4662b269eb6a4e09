"""A batch of samples with one image, none, and two, of different sizes; and what several methods promise."""

import torch

from tests.tiny import random_image

TEXTS = ("A <image> B", "value of C", "<image><image>C")


def ragged_batch(processor, texts=TEXTS):
    """Model inputs; `texts` may leave out or reorder marks, images are taken in turn."""
    images = [random_image(60, 40, 1), random_image(30, 90, 2), random_image(30, 30, 3)]
    images = [[images.pop(0) for _ in range(text.count("<image>"))] for text in texts]
    return processor(text=list(texts), images=images)


def check_cached_rows(model, processor, tokens):
    """Every layer's cache holds the longest sample's text, and `tokens` vision tokens and a newline a crop."""
    inputs = ragged_batch(processor)
    crops = inputs["crops_per_image"].tolist()
    text = ((inputs["input_ids"] != processor.image_token_id) & (inputs["attention_mask"] == 1)).sum(1).tolist()
    rows = [text[0] + crops[0] * (tokens + 1), text[1], text[2] + (crops[1] + crops[2]) * (tokens + 1)]
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert {layer.keys.shape[2] for layer in cache.layers} == {max(rows)}
    assert model.method.tokens_per_crop(16) == tokens


def check_vision_tokens_are_blind(model, processor):
    """What stands before an image reaches its newlines and the text behind it, but no vision token."""
    prompts = [processor(text=[f"{letter} <image>"], images=[[random_image()]]) for letter in "AB"]
    vision = prompts[0]["input_ids"][0] == processor.image_token_id
    vision[vision.nonzero()[16::17]] = False  # newlines are queries
    with torch.no_grad():
        first, second = (model(**p, output_hidden_states=True).hidden_states[-2][0] for p in prompts)
    torch.testing.assert_close(first[vision], second[vision])
    assert not torch.allclose(first[~vision][1:], second[~vision][1:])
