"""The parts a model is made of, and what transformers must know of them. A method sees its model as this."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, initialization

from proxyv.model.configuration import ProxyVConfig
from proxyv.model.vision import Projector, TowerView


class ProxyVPreTrainedModel(PreTrainedModel):
    """Vision tower, projector, newline and LLM, with transformers' own loading, saving and sharding."""

    config_class = ProxyVConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _skip_keys_device_placement = ["past_key_values"]

    config: ProxyVConfig

    def __init__(self, config: ProxyVConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector = Projector(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.image_newline = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)

    def view(self, pixel_values: torch.Tensor) -> TowerView:
        """One pass of the tower over crops (C, 3, S, S)."""
        weight = self.projector.up.weight
        return TowerView(self.vision_tower, pixel_values.to(weight.device, weight.dtype), self.config.feature_layer)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            initialization.normal_(self.image_newline, std=self.image_newline.numel() ** -0.5)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        return self.language_model.model
