"""What differs between LLM families, and nothing else.

A method puts its mixin in front of Hugging Face's own decoder layers (`mix_into_layers`), so parameter names, cache,
`generate` and checkpointing stay Hugging Face's own. Where it takes some rows only through a layer, it needs to know
how the family's layers do it: that is a `Family`, made of the parts in blocks.py. What a family computes for text is
held to Hugging Face's own LLM by tests/contract/test_families.py, with every field of its configuration away from its
default. InternLM2.5 is no family: its weights convert to Llama's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

# The same as every other family's, but for a cap on scores.
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from proxyv.errors import UserError, suggest
from proxyv.model.blocks import Block, Heads, SelectQueries, capped, fused, normed, normed_whole, plain, rotate, scaled

__all__ = [
    "FAMILIES",
    "Family",
    "check_family",
    "drop_sliding_window",
    "eager_attention_forward",
    "family_of",
    "layer_class",
    "mix_into_layers",
]


@dataclass(frozen=True)
class Family:
    """One LLM architecture; the defaults are Llama's."""

    # Attention module, rows as `block.enter_attention` gives them (B, K, D), which are queries → heads before rotary.
    project_qkv: Callable[[Any, torch.Tensor, SelectQueries], Heads] = plain
    block: Block = Block()
    # Configuration, what the output head says (…, V) → logits (…, V).
    logits: Callable[[Any, torch.Tensor], torch.Tensor] = lambda config, logits: logits
    score_cap: str | None = None  # field of the configuration: scores of attention lie below it
    rotary_switch: str | None = None  # attribute of the attention module: whether it turns queries and keys
    makes_window_masks: bool = False  # whether or not a layer has a window, so there must be one

    def rotate(self, attention: Any, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of queries or keys, where this layer has one; see `blocks.rotate`."""
        turns = self.rotary_switch is None or getattr(attention, self.rotary_switch)
        return rotate(heads, cos, sin) if turns else heads

    def cap_of_scores(self, attention: Any) -> float | None:
        """The number c, where this attention takes c · tanh(score / c) for a score."""
        return None if self.score_cap is None else getattr(attention.config, self.score_cap)


FAMILIES: dict[str, Family] = {
    "llama": Family(),  # Vicuna, Llama 2 and 3, SmolLM, converted InternLM2.5
    "qwen2": Family(),  # Qwen2 and Qwen2.5: biases in q, k, v
    "qwen3": Family(normed),
    "mistral": Family(),
    "phi3": Family(fused, Block(after_attention="resid_attn_dropout", after_ffn="resid_mlp_dropout")),
    "granite": Family(block=Block(scale="residual_multiplier"), logits=scaled),
    "gemma2": Family(
        block=Block(
            after_attention="post_attention_layernorm",
            before_ffn="pre_feedforward_layernorm",
            after_ffn="post_feedforward_layernorm",
        ),
        logits=capped,
        score_cap="attn_logit_softcapping",
        makes_window_masks=True,
    ),
    "olmo2": Family(
        normed_whole,
        Block(
            before_attention=None,
            after_attention="post_attention_layernorm",
            before_ffn=None,
            after_ffn="post_feedforward_layernorm",
        ),
    ),
    "smollm3": Family(rotary_switch="use_rope"),
}

# Why some others are none.
UNFIT = {
    "gemma3_text": "most of its layers see the last 512 or 1024 rows, fewer than an image has, and turn by tables of "
    "their own; use gemma2",
}


def family_of(text_config: PreTrainedConfig) -> Family:
    """The family of an LLM configuration. Raises UserError naming what is supported."""
    family = FAMILIES.get(text_config.model_type)
    if family is None:
        why = UNFIT.get(text_config.model_type)
        hint = suggest(text_config.model_type, FAMILIES) if why is None else f": {why}"
        raise UserError(f"llm.config.model_type: '{text_config.model_type}' is not a supported family{hint}")
    return family


def check_family(text_config: PreTrainedConfig) -> None:
    """Raise UserError for an LLM of no supported family, or one that fits no method."""
    family_of(text_config)
    if getattr(text_config, "use_bidirectional_attention", None):
        raise UserError("llm.config.use_bidirectional_attention: rows would see later rows; leave it out")


def drop_sliding_window(text_config: PreTrainedConfig) -> None:
    """Take a sliding window out of an LLM configuration, in place.

    A window shorter than an image's rows (Phi-3-mini-4k: 2047 of 2885) would hide the image's beginning from the
    question behind it; the authors' code ignores it in training, so the released weights expect it gone.
    """
    if FAMILIES.get(text_config.model_type, Family()).makes_window_masks:
        text_config.sliding_window = text_config.max_position_embeddings  # no prompt reaches it, no layer looks at it
    elif getattr(text_config, "sliding_window", None) is not None:
        text_config.sliding_window = None
    if getattr(text_config, "layer_types", None) is not None:
        text_config.layer_types = ["full_attention"] * text_config.num_hidden_layers


def mix_into_layers(llm: PreTrainedModel, mixin: Any, layers: Iterable[int]) -> list[tuple[int, Any]]:
    """Put a mixin in front of some of an LLM's decoder layers, in place; returns their (index, layer)."""
    found = [(index, cast(nn.ModuleList, llm.model.layers)[index]) for index in layers]
    for _, layer in found:
        layer.__class__ = layer_class(mixin, cast(Any, type(layer)))
        # Sharding and device placement must keep these layers whole, like the parent class.
        llm._no_split_modules = {*(llm._no_split_modules or ()), type(layer).__name__}
    return found


@cache
def layer_class(mixin: Any, parent: Any) -> type[nn.Module]:
    """`mixin` in front of a family's decoder layer, e.g. ProxyVLayer + LlamaDecoderLayer →
    ProxyVLlamaDecoderLayer."""
    name = mixin.__name__.removesuffix("Layer") + parent.__name__
    return type(name, (mixin, parent), {"__doc__": mixin.__doc__, "__module__": mixin.__module__})
