"""A recipe whose FLOPs, memory and time are small enough to work out by hand."""

from typing import Any

from proxyv.config import LLMSpec, Recipe, VisionSpec

GRID = 4  # the tiny tower's patches per side


def profiled_recipe(**method: Any) -> Recipe:
    """Four layers of width 64, crops of 4 × 4 patches, at most 3 crops an image."""
    llm = {
        "model_type": "llama",
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": GRID * 4,
        "patch_size": 4,
    }
    return Recipe(
        name="tiny",
        llm=LLMSpec(config=llm),
        vision=VisionSpec(config=vision, grid=[[1, 2], [2, 1]]),
        method=method or {"name": "proxyv", "start_layer": 1, "downsample": 2},
    )
