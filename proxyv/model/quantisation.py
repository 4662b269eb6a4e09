"""Loading in 8 or 4 bit by bitsandbytes: the LLM's linear layers, and nothing else.

The output head stays as it is, as Hugging Face has it, and so do tower, projector and the method's modules: few
weights, through which every image passes.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.modeling import ProxyVForConditionalGeneration

LOAD_IN = ("8bit", "4bit")


def quantised_loading(
    config: ProxyVConfig, load_in: str, device: str, dtype: torch.dtype | str = "auto"
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model's LLM quantised (LLM.int8(), arXiv 2208.07339; NF4, arXiv
    2305.14314).

    Args:
        load_in: "8bit" or "4bit".
        dtype: of everything else ("auto": as saved); 4-bit layers compute in it.

    Raises UserError for another `load_in`, or where bitsandbytes, an optional dependency, is not installed.
    """
    if load_in not in LOAD_IN:
        raise UserError(f"load_in: '{load_in}' is unknown; use {' or '.join(LOAD_IN)}")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"load_in: {load_in} needs bitsandbytes, which is not installed; pip install 'proxyv[quant]'")
    quantisation = BitsAndBytesConfig(
        load_in_8bit=load_in == "8bit",
        load_in_4bit=load_in == "4bit",
        llm_int8_skip_modules=unquantised_modules(config),
        bnb_4bit_compute_dtype=config.dtype or torch.float32 if dtype == "auto" else dtype,
        bnb_4bit_quant_type="nf4",
    )
    return {"quantization_config": quantisation, "device_map": {"": device}, "dtype": dtype}


def unquantised_modules(config: ProxyVConfig) -> list[str]:
    """Full names of the linear layers that keep their precision: all but the LLM's, and the LLM's output head."""
    with torch.device("meta"):
        model = ProxyVForConditionalGeneration(config)
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (module is head or model.module_group(name) != "llm")
    ]
