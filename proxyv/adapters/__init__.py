"""LoRA adapters (PEFT): on which layers they lie, the folder that keeps them, and merging them into the LLM.

lora.py    a stage's `lora` → adapters inside the model; which parameters are theirs
folder.py  what an adapter folder holds; model folders and adapter folders → models
merge.py   an adapter folder → an ordinary model folder, logits compared

The model stays a ProxyVForConditionalGeneration: PEFT's layers stand inside it, so the forward pass, `generate` and
the module groups are those of any model.
"""

from proxyv.adapters.folder import is_adapter_folder, load_adapter_folder, load_model, load_weights, save_model
from proxyv.adapters.lora import adapt, adapter_parameters, check_lora, has_adapters, merge_adapters

__all__ = [
    "adapt",
    "adapter_parameters",
    "check_lora",
    "has_adapters",
    "is_adapter_folder",
    "load_adapter_folder",
    "load_model",
    "load_weights",
    "merge_adapters",
    "save_model",
]
