"""The parts a model is made of, and what transformers must know of them. A method sees its model as this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, initialization
from transformers.models.clip import modeling_clip

from proxyv.errors import UserError, naming, reading
from proxyv.model.attention import check_back_end
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.families import check_family, family_of
from proxyv.model.generation_settings import check_generation
from proxyv.model.sources import SAVE_AGAIN, check_source, check_weights, weight_shapes
from proxyv.model.vision import Projector, TowerView

# Older transformers nest a tower's weights below `vision_model`; newer ones save them without, and read both.
TOWER_KEYS = (
    {r"^vision_tower\.(?!vision_model\.)": "vision_tower.vision_model."}
    if hasattr(modeling_clip, "CLIPVisionTransformer")
    else None
)


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
        check_family(config.text_config)
        check_back_end(config.text_config._attn_implementation, config.text_config)
        with reading("vision.config", "fix the field that it says"):
            self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector = Projector(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.image_newline = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        with reading("llm.config", "fix the field that it says"):
            self.language_model = AutoModelForCausalLM.from_config(config.text_config)

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's `from_pretrained`, but missing, unused or misshapen weights are an error, not a warning, and
        weights are read from safetensors alone.

        Raises UserError that lists them, and for a folder that is not there, damaged, or brings code of its own.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("key_mapping", TOWER_KEYS)
        if path is not None:
            check_source(path, "model")
            check_weights(path)
            check_generation(Path(path))
            kwargs.setdefault("config", ProxyVConfig.from_pretrained(path))
            cls._check_shapes(Path(path), kwargs["config"])
        kwargs.update(output_loading_info=True, use_safetensors=True, trust_remote_code=False)  # whoever asks otherwise
        with reading(path, SAVE_AGAIN):
            model, info = super().from_pretrained(path, *args, **kwargs)
        bad = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
        if bad:
            listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(keys)}" for kind, keys in bad.items())
            raise UserError(f"{path}: the weights do not fit the configuration: {listed}")
        return (model, info) if wants_info else model

    @classmethod
    def _check_shapes(cls, folder: Path, config: ProxyVConfig) -> None:
        """Raise UserError where a configuration cannot be built, or a folder's weights have other shapes than it says.

        Looked up on shapes alone: a wrong number in the configuration must not be what memory is taken by.
        """
        with naming(folder / "config.json"), torch.device("meta"):
            wanted = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
        found = weight_shapes(folder)
        names = {name: name.replace("vision_tower.vision_model.", "vision_tower.") for name in found}
        wanted = {name.replace("vision_tower.vision_model.", "vision_tower."): shape for name, shape in wanted.items()}
        for name, shape in found.items():
            if shape != wanted.get(names[name], shape):
                raise UserError(
                    f"{folder}: the weights do not fit the configuration: {name} is {shape}, "
                    f"config.json says {wanted[names[name]]}"
                )

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """Hugging Face's own. Raises UserError for a back-end that cannot run the LLM."""
        check_back_end(attn_implementation, self.config.text_config)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def view(self, pixel_values: torch.Tensor) -> TowerView:
        """One pass of the tower over normalised crops (C, 3, S, S), of any float dtype and on any device."""
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

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LLM's last hidden states (…, D) → logits (…, V), as its own forward makes them."""
        logits: torch.Tensor = self.get_output_embeddings()(hidden)
        return family_of(self.config.text_config).logits(self.config.text_config, logits)

    def get_decoder(self) -> nn.Module:
        decoder: nn.Module = self.language_model.model
        return decoder
