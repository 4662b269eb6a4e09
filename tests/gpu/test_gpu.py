"""What only a GPU shows. Not run on machines without one."""

import gc
from pathlib import Path

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.model.build import build_model
from proxyv.profiling.bench import bench_recipes, bench_tables
from proxyv.profiling.bench.models import build_candidates
from proxyv.profiling.sample import make_inputs
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe

pytestmark = pytest.mark.gpu
CONFIGS = Path(__file__).parents[2] / "configs"
FULL_SIZE = (
    "vicuna-7b-proxyv-l12",
    "vicuna-7b-proxyv_ns-l12",
    "vicuna-13b-proxyv-l16",
    "llama3-8b-proxyv-l16",
    "qwen2-7b-proxyv-l16",
    "phi3-3b-proxyv-l16",
    "internlm2.5-7b-proxyv-l16",
    "vicuna-7b-light_mlp-l12",
    "vicuna-7b-skip_attention-l12",
    "vicuna-7b-visionzip",
    "vicuna-7b-pyramiddrop",
    "vicuna-7b-proxyv_ns+visionzip-l12",
)


def shipped(name):
    """The recipe of that name."""
    (path,) = CONFIGS.rglob(f"{name}.yaml")
    return load_recipe(path)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}-{m.get('start_layer')}")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cuda_equals_cpu(method, attention):
    """float32 closely, bfloat16 within its own rounding."""
    model, processor = tiny_model("llama", method)
    model.set_attn_implementation(attention)
    inputs = processor(text=["A<image>B", "value of C"], images=[[random_image()], []])
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
    recipe = shipped(name)
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
    """Every back-end gives figures, or, flash attention alone, its reason where it is not there."""
    recipe = tiny_recipe("llama", METHODS[1])
    back_ends = ["eager", "sdpa", "flash_attention_2"]
    result = bench_recipes([recipe], device="cuda", dtype="bfloat16", attentions=back_ends, repeats=3, peak=True)
    assert result["device"]["name"].startswith("cuda: ") and result["device"]["memory_gb"] > 1
    assert result["matrix_rate"]["median"] > 1
    for cell in result["cells"]:
        if cell["failed"] is not None:
            assert cell["attention"] == "flash_attention_2", cell["failed"]
            continue
        assert cell["peak_memory_mb"] > result["models"][cell["label"]]["weights_mb"]
        if cell["label"] != result["baseline"]:
            ratio = cell["ratios"]["prefill_ms"]
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert "TFLOP/s" in bench_tables([result])


def test_full_size_models_share_their_weights():
    """Four methods on Vicuna-7B take little more memory than one."""
    names = ("vicuna-7b-full", "vicuna-7b-proxyv-l12", "vicuna-7b-visionzip", "vicuna-7b-pyramiddrop")
    before = torch.cuda.memory_allocated()
    candidates = build_candidates([shipped(name) for name in names], 0, "cuda", torch.bfloat16)
    gc.collect()
    one = sum(parameter.nbytes for parameter in candidates[0].model.parameters())
    assert torch.cuda.memory_allocated() - before < 1.1 * one
    del candidates
    gc.collect()
    torch.cuda.empty_cache()
