"""The configuration that is saved with a model: tower, LLM, method, and how crops become rows."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from proxyv.errors import UserError, suggest
from proxyv.model.families import drop_sliding_window
from proxyv.model.layout import NEWLINE_POSITIONS
from proxyv.model.vision import grid_side


def sub_config(values: PreTrainedConfig | dict[str, Any], field: str) -> PreTrainedConfig:
    """A Hugging Face configuration from its dict form, by its `model_type`.

    Raises UserError that names `field` where transformers does not know the type.
    """
    if isinstance(values, PreTrainedConfig):
        return values
    fields = dict(values)
    model_type = fields.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except ValueError as error:
        raise UserError(
            f"{field}.model_type: '{model_type}' is unknown to transformers; name a model type it has"
        ) from error


class ProxyVConfig(PreTrainedConfig):
    """A vision tower, a projector, an LLM, and a method that spends less on vision tokens.

    Args:
        text_config: configuration of the LLM (see families.py), or its dict; a sliding window is taken out.
        vision_config: configuration of the tower (CLIP or SigLIP vision model), or its dict.
        method: the method's name and fields (see `proxyv.methods`).
        image_token_id: id of the `<image>` placeholder; it may lie beyond the LLM's vocabulary, since
            placeholders are never embedded.
        feature_layer: index into the tower's hidden states.
        newline_positions: "natural", or "authors" for weights that the authors released (see `make_layout`).

    Raises UserError for an unknown model type or unknown newline positions.
    """

    model_type = "proxyv"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        image_token_id: int = 32000,
        feature_layer: int = -2,
        newline_positions: str = "natural",
        **kwargs: Any,
    ):
        self.text_config = sub_config(text_config or {"model_type": "llama"}, "llm.config")
        drop_sliding_window(self.text_config)
        self.vision_config = sub_config(vision_config or {"model_type": "clip_vision_model"}, "vision.config")
        self.method = method or {"name": "full"}
        self.image_token_id = image_token_id
        self.feature_layer = feature_layer
        if newline_positions not in NEWLINE_POSITIONS:
            hint = suggest(newline_positions, NEWLINE_POSITIONS)
            raise UserError(f"newline_positions: '{newline_positions}' is unknown{hint}")
        self.newline_positions = newline_positions
        kwargs.setdefault("tie_word_embeddings", False)  # the LLM ties its own embeddings
        super().__init__(**kwargs)

    @property
    def tokens_per_crop(self) -> int:
        """Vision tokens that one crop puts into the LLM, without its newline."""
        return grid_side(self.vision_config) ** 2
