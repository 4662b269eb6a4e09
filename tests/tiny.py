"""Tiny random models for tests: 56-pixel crops of 4 × 4 vision tokens, a few narrow layers."""

import copy
import json
from functools import lru_cache

import torch
from PIL import Image

from proxyv.config import LLMSpec, Recipe, VisionSpec
from proxyv.model.build import build_model, build_processor
from proxyv.model.character_tokenizer import make_character_tokenizer
from proxyv.pages import QUESTION_WORDS, TEXT_CHARACTERS

METHODS = (
    {"name": "full"},
    {"name": "proxyv", "start_layer": 1, "downsample": 2, "hidden_ratio": 2},
    {"name": "proxyv", "start_layer": 0, "downsample": 2, "hidden_ratio": 2},
    {"name": "proxyv_ns", "start_layer": 0, "queries": 3, "hidden_ratio": 2},
)


# What only some families have: heads that do not add up to the width, a partial rotary embedding, a window that is
# shorter than an image's rows and must not matter, multipliers, caps on scores and logits, layers without rotary.
SPECIAL = {
    "qwen3": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": 8},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 8, "original_max_position_embeddings": 4096},
    "granite": {
        **{"residual_multiplier": 0.4, "attention_multiplier": 0.2},
        **{"embedding_multiplier": 3.0, "logits_scaling": 2.0},
    },
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0},
    "smollm3": {"no_rope_layer_interval": 2},
}
CAPPED = ("gemma2",)  # their scores are capped, which sdpa cannot do
# A tower of 4 × 4 patches a crop, whatever its kind.
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def tiny_recipe(family="llama", method=None, **fields):
    """A recipe of a random model that reads the characters of synthetic pages."""
    vocabulary = len(make_character_tokenizer(TEXT_CHARACTERS, QUESTION_WORDS))
    text = {
        "model_type": family,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.2,
        **SPECIAL.get(family, {}),
    }
    tower = {"model_type": "clip_vision_model", **TOWER}
    return Recipe(
        name="tiny",
        llm=LLMSpec(config=text, tokenizer="characters", chat_template="characters"),
        vision=VisionSpec(config=tower, feature_layer=-2),
        method=dict(method or METHODS[0]),
        **({"attention": "eager"} if family in CAPPED else {}) | fields,
    )


def tiny_model(family="llama", method=None, seed=0):
    """A random model in eval mode and its processor. Both are the caller's to change: a copy of what was built first
    for these arguments, with torch's generator left as building leaves it."""
    built, generator = _built(family, json.dumps(method or METHODS[0]), seed)
    torch.set_rng_state(generator)
    return copy.deepcopy(built)


@lru_cache(maxsize=64)
def _built(family, method, seed):
    recipe = tiny_recipe(family, json.loads(method))
    torch.manual_seed(seed)
    processor = build_processor(recipe)
    model = build_model(recipe, image_token_id=processor.image_token_id).eval()
    return (model, processor), torch.get_rng_state()


def random_image(width=60, height=40, seed=0):
    """A random RGB image."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())
