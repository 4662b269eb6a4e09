"""An LLM's or a tower's folder with pickled weights (`pytorch_model*.bin`) → the same folder with safetensors.

Names, shapes, precision and all other files stay. Only plain tensors are unpickled; nothing else of a pickle is run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from tqdm import tqdm

from proxyv.convert.weights import SMALL_FILES, find_weights
from proxyv.errors import UserError

INDEX = "model.safetensors.index.json"


def convert_pickled(source: Path, target: Path) -> list[str]:
    """Write the folder, one file of weights for each of the source. Returns notes for the user.

    Raises UserError where the weights are safetensors already, or a file holds more than tensors; the latter shows
    before anything is written.
    """
    weights = find_weights(source)
    if weights.files[0].suffix == ".safetensors":
        raise UserError(f"{source}: has safetensors already; name it in llm.pretrained or vision.pretrained as it is")
    weights.outlines()
    target.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for number, file in enumerate(tqdm(weights.files, desc="convert", unit="file", disable=None), start=1):
        name = (
            f"model-{number:05}-of-{len(weights.files):05}.safetensors"
            if len(weights.files) > 1
            else "model.safetensors"
        )
        tensors = {key: value.clone().contiguous() for key, value in weights.read(file)}
        save_file(tensors, target / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    if len(weights.files) > 1:
        (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1), encoding="utf-8")
    for file in sorted({file for pattern in SMALL_FILES for file in source.glob(pattern)}):
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    return ["the weights are those of the source, bit for bit; name the new folder in the recipe (pretrained)"]
