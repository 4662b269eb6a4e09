"""Using every method leaves transformers as it is: plain models of the process keep their classes and their numbers."""

from tests.warm import python

CODE = """
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
text = dict(small, num_key_value_heads=2, vocab_size=50)
ids, pixels = torch.arange(12).view(2, 6), torch.ones(1, 3, 28, 28)


def numbers():
    torch.manual_seed(0)
    llms = LlamaForCausalLM(LlamaConfig(**text)), Qwen2ForCausalLM(Qwen2Config(**text))
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=28, patch_size=14, **small))
    with torch.no_grad():
        return [*(llm(ids).logits for llm in llms), tower(pixels).last_hidden_state]


def classes():
    modules = (modeling_llama, modeling_qwen2, modeling_clip)
    found = {(m.__name__, n): c for m in modules for n, c in vars(m).items() if isinstance(c, type)}
    return {key: (cls, dict(vars(cls))) for key, cls in found.items()}


before, known = numbers(), classes()
from proxyv.methods import method_classes
from tests.contract.method_settings import method_fields
from tests.tiny import random_image, tiny_model

for family in ("llama", "qwen2"):
    for name in method_classes():
        model, processor = tiny_model(family, method_fields(name))
        model.generate(**processor(text=["A <image> B"], images=[[random_image()]]), max_new_tokens=2)
after, now = numbers(), classes()
assert all(torch.equal(*pair) for pair in zip(before, after, strict=True)), "numbers"
for key, (cls, attributes) in known.items():
    other, others = now[key]
    assert cls is other, key
    assert {n: v for n, v in attributes.items() if n != "__dict__"}.items() <= others.items(), key
print("untouched", len(known), "classes")
"""


def test_plain_models_keep_classes_and_numbers(repo):
    done = python("-c", CODE, folder=repo)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("untouched")
