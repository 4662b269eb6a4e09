"""InternLM2 and InternLM2.5 weights → Llama's layout, as a plain Hugging Face folder for `llm.pretrained`.

The two compute the same; InternLM2 fuses queries, keys and values into one matrix, grouped by key/value head, and
names things differently (layout: the public InternLM repository, tools/convert2llama.py). None of its code is run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from proxyv.convert.plan import ConversionPlan, Part, Tensors
from proxyv.convert.weights import find_weights
from proxyv.errors import UserError, naming
from proxyv.files import read_json
from proxyv.model.sub_configs import sub_config

_RENAMES = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "model.norm.weight": "model.norm.weight",
}
_IN_LAYER = {
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
# Their fields that say how the file was saved, or name their code.
_NOT_LLAMA = {
    "model_type",
    "architectures",
    "auto_map",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "special_tokens_map.json")


def convert_internlm(source: Path, target: Path, their_config: Mapping[str, Any]) -> list[str]:
    """Write a Llama folder: weights, config, generation config and tokenizer. Returns notes for the user.

    Raises UserError for attention biases, which InternLM2.5 has not, and for weights that do not fit.
    """
    plan = internlm_plan(source, their_config)
    plan.write(target)
    plan.model.config.dtype = plan.dtype
    plan.model.config.architectures = ["LlamaForCausalLM"]
    plan.model.config.save_pretrained(target)
    GenerationConfig.from_model_config(plan.model.config).save_pretrained(target)
    return [*plan.notes, *_copy_tokenizer(source, target)]


def internlm_plan(source: Path, their_config: Mapping[str, Any]) -> ConversionPlan:
    """The plan from their config.json and weights. Raises UserError for attention biases and a lack of weights."""
    if their_config.get("bias"):
        raise UserError(f"{source / 'config.json'}: bias: true has no place in Llama's layout; not supported")
    known = {*LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - _NOT_LLAMA
    fields = {key: value for key, value in their_config.items() if key in known and value is not None}
    with naming(source / "config.json"):
        config = cast(LlamaConfig, sub_config({"model_type": "llama", **fields}, "config"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)

    def translate(name: str, tensor: torch.Tensor) -> Tensors | None:
        if name in _RENAMES:
            return {_RENAMES[name]: tensor}
        match = re.match(r"(model\.layers\.\d+\.)(.+)", name)
        if match and match[2] == "attention.wqkv.weight":
            return {f"{match[1]}self_attn.{key}.weight": value for key, value in split_qkv(tensor, config).items()}
        return {match[1] + _IN_LAYER[match[2]]: tensor} if match and match[2] in _IN_LAYER else None

    weights = find_weights(source)
    dtype = next(iter(weights.outlines().values())).dtype
    return ConversionPlan(str(source), model, [Part(weights, translate)], dtype)


def split_qkv(fused: torch.Tensor, config: LlamaConfig) -> Tensors:
    """One matrix (kv heads · (q per kv + 2) · head size, D) → q_proj (q heads · head size, D), k_proj and v_proj
    (kv heads · head size, D), same dtype.

    Each key/value head's rows are its queries' heads, then its key, then its value.
    """
    groups = config.num_key_value_heads
    per_group = config.num_attention_heads // groups
    size = config.hidden_size // config.num_attention_heads
    if fused.shape[0] != groups * (per_group + 2) * size:
        return {"wqkv": fused}  # shows up as unused, with q, k and v missing
    heads = fused.unflatten(0, (groups, per_group + 2, size))
    parts = {"q_proj": heads[:, :per_group], "k_proj": heads[:, per_group], "v_proj": heads[:, per_group + 1]}
    return {name: part.flatten(0, -2).clone() for name, part in parts.items()}


def _copy_tokenizer(source: Path, target: Path) -> list[str]:
    """Copy the tokenizer's files; its configuration is made to name transformers' own class, not their code."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    fast = (target / "tokenizer.json").is_file()
    if not fast and not (target / "tokenizer.model").is_file():
        return ["no tokenizer beside the weights; name one in the recipe (llm.tokenizer)"]
    path = source / "tokenizer_config.json"
    settings = read_json(path, "download it again") if path.is_file() else {}
    settings.pop("auto_map", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast" if fast else "LlamaTokenizer"
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
    if fast:
        return []
    return ["the tokenizer is read from tokenizer.model by transformers' Llama tokenizer, which needs sentencepiece"]
