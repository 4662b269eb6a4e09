"""The configuration that is saved with a model: tower, LLM, method, and how crops become rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from proxyv.errors import UserError, reading, suggest
from proxyv.model.families import drop_sliding_window
from proxyv.model.layout import NEWLINE_POSITIONS
from proxyv.model.sources import SAVE_AGAIN, check_folder, check_source
from proxyv.model.sub_configs import MOST, sub_config
from proxyv.model.vision import grid_side


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
        turn_tokens: for a method that needs the question: which tokens mark turns (see `proxyv.model.turns`). None: not
            known; then a question ends with its prompt at inference, so that a prompt of several turns is read as one.

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
        turn_tokens: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.text_config = sub_config(text_config or {"model_type": "llama"}, "llm.config")
        drop_sliding_window(self.text_config)
        self.vision_config = sub_config(vision_config or {"model_type": "clip_vision_model"}, "vision.config")
        self.method = {"name": "full"} if method is None else method
        if not isinstance(self.method, dict):
            raise UserError(f"method: {method!r:.100} must be a mapping with a name")
        _check_index("image_token_id", image_token_id, 0, MOST)
        blocks = int(self.vision_config.num_hidden_layers)
        _check_index("feature_layer", feature_layer, -blocks - 1, blocks)
        self.image_token_id = image_token_id
        self.feature_layer = feature_layer
        if newline_positions not in NEWLINE_POSITIONS:
            hint = suggest(str(newline_positions), NEWLINE_POSITIONS)
            raise UserError(f"newline_positions: '{newline_positions}' is unknown{hint}")
        self.newline_positions = newline_positions
        self.turn_tokens = turn_tokens
        kwargs.setdefault("tie_word_embeddings", False)  # the LLM ties its own embeddings
        super().__init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As Hugging Face's. Raises UserError where there is none, it is damaged, or the folder brings code."""
        source = pretrained_model_name_or_path
        check_source(source, "model")
        check_folder(source)
        with reading(Path(source) / "config.json", SAVE_AGAIN):
            return super().from_pretrained(source, **{**kwargs, "trust_remote_code": False})

    @property
    def tokens_per_crop(self) -> int:
        """Vision tokens that one crop puts into the LLM, without its newline."""
        return grid_side(self.vision_config) ** 2


def _check_index(field: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{field}: {value!r:.100} must be a whole number from {low} to {high}")
