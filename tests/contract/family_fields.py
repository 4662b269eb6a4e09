"""Every field of an LLM family's configuration, and what it is set to so that it leaves its default.

The fields and their defaults come from the configuration class that transformers has. A number or a switch moves by
itself; what else there is stands in `VALUES`, or in `LEFT_OUT` with the reason. A field that is in neither, in a new
release or a new family, fails the contract until somebody has looked at it.
"""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from proxyv.model.build import build_model
from tests.tiny import tiny_recipe

WINDOW = "a sliding window is taken out on purpose, see drop_sliding_window"
LEFT_OUT = {
    "use_cache": "whether forward returns a cache, not what it computes",
    "initializer_range": "fresh weights only",
    "pad_token_id": "names a token",
    "bos_token_id": "names a token",
    "eos_token_id": "names a token",
    "pretraining_tp": "transformers reads it nowhere",
    "embd_pdrop": "transformers reads it nowhere",
    "sliding_window": WINDOW,
    "use_sliding_window": WINDOW,
    "max_window_layers": WINDOW,
    "layer_types": WINDOW,
    "max_position_embeddings": "read with rotary scaling only",
    "original_max_position_embeddings": "read with rotary scaling only",
}
# Dropout leaves no number as it is; where it drops nearly all, a pass is no chance, see test_families.py.
DROPOUT = ("attention_dropout", "resid_pdrop")
REFUSED = {"use_bidirectional_attention"}  # in one line: rows that see later rows fit no method
SCALED = [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0},
    {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        **{"original_max_position_embeddings": 16, "rope_theta": 10000.0},
    },
]
VALUES: dict[str, list[Any]] = {  # the first of them, where all fields leave their defaults at once
    "hidden_act": ["gelu"],
    "hidden_activation": ["silu"],
    "head_dim": [12],
    "rope_parameters": SCALED,
    "attn_logit_softcapping": [1.5, None],
    "final_logit_softcapping": [2.5, None],
    "no_rope_layers": [[0, 1, 0], [1, 0, 0]],
    "use_bidirectional_attention": [True],
}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
OWN: dict[str, dict[str, list[Any]]] = {  # of one family
    "phi3": {
        "rope_parameters": [
            {**LONG, "short_factor": [1.0, 3.0], "long_factor": [2.0, 5.0], "original_max_position_embeddings": 4},
            {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
        ]
    },
}


def fields(family: str) -> dict[str, Any]:
    """Field → default, of what the family's configuration class has beyond every other's."""
    every = inspect.signature(PreTrainedConfig.__init__).parameters
    own = inspect.signature(type(AutoConfig.for_model(family)).__init__).parameters
    return {name: parameter.default for name, parameter in own.items() if name not in every}


def perturbed(family: str) -> dict[str, list[Any]]:
    """Field → values away from its default, for every field that is not left out. Raises ValueError for one that
    nobody has looked at."""
    given = tiny_recipe(family).llm.config
    found = {}
    for name, default in fields(family).items():
        values = OWN.get(family, {}).get(name) or VALUES.get(name)
        if values is not None:
            found[name] = values
        elif name not in LEFT_OUT and name not in DROPOUT and given.get(name, default) == default:
            found[name] = [_other(family, name, default)]
    return found


def _other(family: str, name: str, default: Any) -> Any:
    """Away from a number or a switch."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, float):
        return default / 2 + 0.1
    if isinstance(default, int):
        return default // 2 + 1
    raise ValueError(
        f"{family}: nobody has looked at the field '{name}' (default {default!r}): name a value for it under VALUES in "
        f"{__file__}, or under LEFT_OUT why it changes no number"
    )


def stock_llm(family: str, changed: dict[str, Any]) -> torch.nn.Module:
    """Hugging Face's own LLM, as if there were nothing else, tiny and random; vectors (norms, biases) are random too,
    or nobody would miss one."""
    recipe = tiny_recipe(family)
    config = AutoConfig.for_model(**{**recipe.llm.config, **changed})
    config._attn_implementation = recipe.attention
    torch.manual_seed(3)
    llm = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 1.5)
    return llm


def build(family: str, method: dict[str, Any], changed: dict[str, Any], llm: torch.nn.Module) -> torch.nn.Module:
    """A tiny model around the weights of such an LLM."""
    recipe = tiny_recipe(family, method)
    recipe.llm.config.update(changed)
    model = build_model(recipe).eval()
    missing, unused = model.language_model.load_state_dict(llm.state_dict(), strict=False)
    assert not unused and all(model.module_group(key) == "method" for key in missing)
    return model
