"""LLaVA-STF: fused tower layers, then windows of patches side by side in one vector."""

from types import SimpleNamespace

import pytest
import torch

from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.methods.shared.before_llm import windows
from proxyv.methods.stf import STF
from proxyv.model.build import build_model
from tests.tiny import tiny_model
from tests.unit.methods.ragged import check_cached_rows, ragged_batch

FIELDS = {"name": "stf", "window": 2, "fuse_layers": [-2, 3, 1]}


def test_windows_by_hand():
    """A 4 × 4 grid that counts 0 … 15: windows in raster order, members in raster order within each."""
    members = windows(torch.arange(16.0).view(1, 16, 1), 2)[0, :, :, 0].tolist()
    assert members == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_fusion_by_hand():
    """Two hidden states of one crop of 2 × 2 patches and width 2; in place of the MLP, the sum of both states. The
    window's vector holds the first channel of its four patches (row by row), then the second."""
    states = {
        0: torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]]),
        1: torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]]),
    }
    view = SimpleNamespace(patches=states.get)
    model = SimpleNamespace(reducer=lambda features: features[..., :2] + features[..., 2:])
    values = STF(window=2, fuse_layers=(0, 1)).select(model, view, None).values
    assert values.shape == (1, 1, 8)
    assert values.flatten().tolist() == pytest.approx([1.1, 3.3, 5.5, 7.7, 2.2, 4.4, 6.6, 8.8])


def test_a_window_is_a_strided_convolution():
    """The published figure draws the fusion as one: the projector's first map, read as a kernel, gives the same."""
    model, processor = tiny_model("llama", FIELDS)
    inputs = ragged_batch(processor)
    with torch.no_grad():
        view = model.view(inputs["pixel_values"])
        fused = model.reducer(torch.cat([view.patches(layer) for layer in (-2, 3, 1)], -1))
        up = model.projector.up
        kernel = up.weight.view(-1, 32, 2, 2)
        grid = fused.transpose(1, 2).unflatten(2, (4, 4))
        convolved = torch.nn.functional.conv2d(grid, kernel, up.bias, stride=2).flatten(2).transpose(1, 2)
        selected = model.method.select(model, view, None).values
    torch.testing.assert_close(up(selected), convolved)


@pytest.mark.parametrize("window, tokens", [(1, 16), (2, 4), (4, 1)])
def test_every_layers_cache_holds_the_windows(window, tokens):
    model, processor = tiny_model("qwen2", {**FIELDS, "window": window})
    check_cached_rows(model, processor, tokens)


def test_published_size():
    """MBTF 8192 → 4096 → 1024 and projector 4096 → 16384 → 4096, with biases; 144 vision tokens a crop."""
    recipe = load_recipe("configs/recipes/vicuna-7b-full.yaml")
    recipe.method = dict(load_recipe("configs/method/stf.yaml").method)
    model = build_model(recipe, device="meta")
    count = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("reducer", "projector")}
    assert count["reducer"] == 8192 * 4096 + 4096 + 4096 * 1024 + 1024  # 37.8 M
    assert count["projector"] == 4096 * 16384 + 16384 + 16384 * 4096 + 4096  # 134.2 M
    assert model.method.tokens_per_crop(576) == 144


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"window": 3}, "method.window: 3"),
        ({"window": 0}, "method.window: must be at least 1, found 0"),
        ({"fuse_layers": [-2, 21]}, "method.fuse_layers: 21"),
        ({"fuse_layers": [-5]}, "method.fuse_layers: -5"),
        ({"fuse_layers": []}, "method.fuse_layers"),
        ({"inner_ratio": 0}, "method.inner_ratio: must be at least 1, found 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny_model("llama", {**FIELDS, **fields})
