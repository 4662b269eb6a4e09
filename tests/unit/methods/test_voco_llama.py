"""VoCo-LLaMA: who sees whom and what stays in the cache, worked out by hand; what text can know of an image."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from proxyv.errors import UserError
from proxyv.methods import make_method
from proxyv.methods.voco_llama import rows_of_images, within_images
from proxyv.model.build import build_model, build_processor
from proxyv.model.cache import CachedRows, set_cached_rows
from proxyv.model.layout import make_layout
from tests.tiny import random_image, tiny_model, tiny_recipe

# Crops of two vision tokens. Sample 0: text, an image, text, an image, text. Sample 1: two rows of padding, text, a
# image of two crops. One learned token c goes behind each image, which makes 11 rows and, with padding, as many.
#     row    0  1  2  3  4  5  6  7  8  9 10
#            t [v  v  n  c] t [v  v  n  c] t
#            -  -  -  t [v  v  n  v  v  n  c]
IS_IMAGE = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1]]).bool()
MASK = torch.tensor([[1] * 9, [0, 0] + [1] * 7])
SEEN = [
    {
        0: [0],
        1: [0, 1],
        2: [0, 1, 2],
        3: [0, 1, 2, 3],
        4: [0, 1, 2, 3, 4],  # c sees its image
        5: [0, 4, 5],  # text sees c in its place
        6: [0, 4, 5, 6],  # and so does another image
        7: [0, 4, 5, 6, 7],
        8: [0, 4, 5, 6, 7, 8],
        9: [0, 4, 5, 6, 7, 8, 9],
        10: [0, 4, 5, 9, 10],
    },
    {3: [3], 4: [3, 4], 6: [3, 4, 5, 6], 7: [3, 4, 5, 6, 7], 10: [3, 4, 5, 6, 7, 8, 9, 10]},
]


def test_who_sees_whom():
    layout, _ = make_layout(IS_IMAGE, MASK, [1, 1, 2], 2).resized(2, extra=1)
    images = rows_of_images(layout)
    assert images[0].tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, 1, 1, -1]
    assert images[1].tolist() == [-1, -1, -1, -1, 2, 2, 2, 2, 2, 2, 2]
    visible = within_images(layout, images)
    for sample, rows in enumerate(SEEN):
        for row, seen in rows.items():
            assert visible[sample, row].nonzero().flatten().tolist() == seen
    assert visible[1, 0].all()  # padding: any finite result will do


def test_a_cache_layer_returns_all_rows_of_the_prompt_and_keeps_some():
    """Rows 0 and 2 of sample 0, row 1 of sample 1; then one more of each, behind them."""
    rows = CachedRows(torch.tensor([[True, True], [True, False]]), torch.tensor([3, 3]), True, 3)
    cache = DynamicCache()
    set_cached_rows(cache, 0, rows, torch.tensor([[0, 2], [1, 0]]))
    prompt = torch.arange(12.0).view(2, 1, 3, 2)
    key, value = cache.update(prompt, -prompt, 0)
    assert torch.equal(key, prompt) and torch.equal(value, -prompt)
    assert cache.layers[0].keys[0, 0].tolist() == [[0, 1], [4, 5]]
    assert cache.layers[0].keys[1, 0, 0].tolist() == [8, 9] and cache.layers[0].values[1, 0, 0].tolist() == [-8, -9]
    key, _ = cache.update(torch.full((2, 1, 1, 2), 7.0), torch.zeros(2, 1, 1, 2), 0)
    assert key.shape[2] == 3 and key[0, 0, 2].tolist() == [7, 7] and cache.get_seq_length() == 3
    assert cache.layers[0].positions(1).tolist() == [[4], [4]]
    assert cache.layers[0].valid_with(1).tolist() == [[True] * 4, [True, False, True, True]]


@pytest.mark.parametrize("tokens", [1, 3])
def test_the_cache_keeps_text_and_learned_tokens_at_true_positions(tokens):
    model, processor = tiny_model("qwen2", {"name": "voco_llama", "tokens": tokens})
    inputs = processor(
        text=["<image>A<image> B", "value"], images=[[random_image(60, 40), random_image(30, 90, 2)], []]
    )
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    text = ((ids != processor.image_token_id) & mask).sum(1)
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
    for layer in output.past_key_values.layers:
        assert layer.rows.valid.sum(1).tolist() == [text[0] + 2 * tokens, text[1]]
        assert layer.keys.shape[2] == text[0] + 2 * tokens
        assert layer.positions(1).flatten().tolist() == [mask[0].sum() + 2 * tokens, text[1]]


@pytest.mark.parametrize("layers, differ", [(1, False), (2, True)])
def test_text_knows_a_image_by_the_learned_tokens_alone(layers, differ):
    """In the first layer these have seen nothing yet, so with one layer text cannot tell images apart."""
    recipe = tiny_recipe("llama", {"name": "voco_llama"})
    recipe.llm.config["num_hidden_layers"] = layers
    torch.manual_seed(0)
    processor = build_processor(recipe)
    model = build_model(recipe, image_token_id=processor.image_token_id).eval()
    logits = []
    with torch.no_grad():
        for seed in (1, 2):
            inputs = processor(text=["A <image> B"], images=[[random_image(seed=seed)]])
            logits.append(model(**inputs, logits_to_keep=1).logits)
    assert (not torch.allclose(*logits, atol=1e-5)) == differ


def test_other_back_ends_are_refused():
    model, processor = tiny_model("llama", {"name": "voco_llama"})
    model.language_model.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="dense mask"):
        model(**processor(text=["<image>A"], images=[[random_image()]]))


def test_fields_that_do_not_fit():
    model, _ = tiny_model()
    with pytest.raises(UserError, match=r"method\.tokens"):
        make_method({"name": "voco_llama", "tokens": 0}).check(model.config, 16)
