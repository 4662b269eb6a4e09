"""The image processor against recorded any-resolution choices and crops."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from proxyv.model.image_processing import ProxyVImageProcessor, best_grid
from tests.parity.recordings import pixels


def test_any_resolution_table(golden_dir):
    table = json.loads((golden_dir / "anyres_table.json").read_text())
    for row in table["rows"]:
        pinpoints = table["grids"][row["grid"]]
        side = min(min(pair) for pair in pinpoints)
        grids = [(width // side, height // side) for width, height in pinpoints]
        columns, rows = best_grid(tuple(row["size_wh"]), grids, side)
        assert [columns * side, rows * side] == row["best_wh"], row
        assert [columns, rows] == row["grid_shape_wh"] and columns * rows + 1 == row["num_crops"]
    assert len(table["rows"]) > 0


def test_crops_of_raw_images(golden_dir):
    """Crops and pixels from the raw image; resampling of another Pillow may round single values differently."""
    compared = 0
    for folder in sorted(golden_dir.glob("images*")):
        size = int(folder.name.removeprefix("images"))
        recorded = json.loads((folder / "meta.json").read_text())
        for file in sorted(folder.glob("*.safetensors")):
            name, tensors = file.stem, load_file(file)
            if "raw_rgb_u8" not in tensors:
                continue
            meta = recorded[name]
            processor = ProxyVImageProcessor(crop_size=size, tokens_per_crop=(size // 14) ** 2, image_mode=meta["mode"])
            image = Image.fromarray(tensors["raw_rgb_u8"].numpy())
            crops = np.stack(processor.crops(image)).transpose(0, 3, 1, 2)
            difference = np.abs(crops.astype(int) - tensors["crops_u8"].numpy().astype(int))
            assert difference.max() <= 1, f"{name}: crops differ by {difference.max()} of 255"
            assert (difference > 0).mean() < 1e-3, f"{name}: {(difference > 0).mean():.2%} of the values differ"
            exact = torch.from_numpy(processor.normalise(tensors["crops_u8"].numpy().transpose(0, 2, 3, 1)))
            torch.testing.assert_close(exact, pixels(tensors["crops_u8"]), atol=1e-6, rtol=0)
            compared += 1
    if not compared:
        pytest.skip("the folder holds no raw images")
