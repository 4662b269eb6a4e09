"""What only a GPU shows. Not run on machines without one."""

import gc
from pathlib import Path

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.model.build import build_model
from proxyv.profiling import bench_recipe
from proxyv.profiling.sample import make_inputs
from tests.tiny import METHODS, picture, tiny_model, tiny_recipe

pytestmark = pytest.mark.gpu
RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
FULL_SIZE = (
    "vicuna-7b-proxyv-l12",
    "vicuna-7b-proxyv_ns-l12",
    "vicuna-13b-proxyv-l16",
    "llama3-8b-proxyv-l16",
    "qwen2-7b-proxyv-l16",
    "phi3-3b-proxyv-l16",
    "internlm2.5-7b-proxyv-l16",
)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}-{m.get('start_layer')}")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cuda_equals_cpu(method, attention):
    """float32 closely, bfloat16 within its own rounding."""
    model, processor = tiny_model("llama", method)
    model.set_attn_implementation(attention)
    inputs = processor(text=["A<image>B", "value of C"], images=[[picture()], []])
    with torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
        model.to("cuda")
        placed = inputs.to("cuda")
        torch.testing.assert_close(model(**placed, logits_to_keep=1).logits.cpu(), expected, atol=2e-3, rtol=2e-3)
        half = model.to(torch.bfloat16)(**placed, logits_to_keep=1).logits.float().cpu()
    assert torch.nn.functional.cosine_similarity(half.flatten(), expected.flatten(), 0) > 0.99


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_prefill_and_decoding(name):
    """Random weights at full size, bfloat16: one prefill of five crops and ten decoding steps, all finite."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = build_model(recipe, weights=False).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    inputs = make_inputs(model, 5, 50, 1)
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=10,
            min_new_tokens=10,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert all(torch.isfinite(step).all() for step in out.logits)
    del model, out
    gc.collect()
    torch.cuda.empty_cache()


def test_bench_on_cuda():
    recipe = tiny_recipe("llama", METHODS[1])
    result = bench_recipe(recipe, device="cuda", dtype="bfloat16", repeats=3)
    assert result["prefill_time_ratio"]["low"] <= result["prefill_time_ratio"]["median"]
    assert "NVIDIA" in result["device"] or result["device"] != "cpu"
