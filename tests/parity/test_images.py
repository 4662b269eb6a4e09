"""The image processor against recorded any-resolution choices and crops."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from proxyv.model.image_processing import ProxyVImageProcessor, best_grid
from tests.parity.recordings import golden_folder, pixels, raw_images

FOLDER = golden_folder()
RAW = raw_images(FOLDER)


@pytest.mark.skipif(not (FOLDER / "anyres_table.json").exists(), reason=f"{FOLDER} holds no any-resolution table")
def test_any_resolution_table():
    table = json.loads((FOLDER / "anyres_table.json").read_text())
    for row in table["rows"]:
        pinpoints = table["grids"][row["grid"]]
        side = min(min(pair) for pair in pinpoints)
        grids = [(width // side, height // side) for width, height in pinpoints]
        columns, rows = best_grid(tuple(row["size_wh"]), grids, side)
        assert [columns * side, rows * side] == row["best_wh"], row
        assert [columns, rows] == row["grid_shape_wh"] and columns * rows + 1 == row["num_crops"]
    assert len(table["rows"]) > 0


@pytest.mark.parametrize("room, name", RAW, ids=["-".join(one) for one in RAW])
def test_crops_of_raw_images(room, name):
    """Crops and pixels from the raw image; resampling of another Pillow may round single values differently."""
    size, tensors = int(room.removeprefix("images")), load_file(FOLDER / room / f"{name}.safetensors")
    meta = json.loads((FOLDER / room / "meta.json").read_text())[name]
    processor = ProxyVImageProcessor(crop_size=size, tokens_per_crop=(size // 14) ** 2, image_mode=meta["mode"])
    image = Image.fromarray(tensors["raw_rgb_u8"].numpy())
    crops = np.stack(processor.crops(image)).transpose(0, 3, 1, 2)
    difference = np.abs(crops.astype(int) - tensors["crops_u8"].numpy().astype(int))
    assert difference.max() <= 1, f"{name}: crops differ by {difference.max()} of 255"
    assert (difference > 0).mean() < 1e-3, f"{name}: {(difference > 0).mean():.2%} of the values differ"
    exact = torch.from_numpy(processor.normalise(tensors["crops_u8"].numpy().transpose(0, 2, 3, 1)))
    torch.testing.assert_close(exact, pixels(tensors["crops_u8"]), atol=1e-6, rtol=0)
