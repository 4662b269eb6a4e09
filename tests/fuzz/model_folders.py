"""Model folders: one file of a saved tiny model changed, then loaded, asked, exported."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from proxyv.checkpoints.load import load_for_evaluation
from proxyv.checkpoints.merge import made_up_logits
from tests.fuzz.nasty import Change, Damage, changes, damages, to_json
from tests.fuzz.outcomes import Category, command
from tests.tiny import METHODS, random_image, tiny_model

JSON_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Broken:
    """One file of the folder, and what was done to it; `sharded`: the weights lie in several files."""

    file: str
    change: Change | Damage | None  # None: the file is gone
    sharded: bool = False


@cache
def saved(sharded: bool) -> Path:
    """A saved model, kept until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="proxyv-fuzz-"))
    model, processor = tiny_model(method=METHODS[1])
    model.save_pretrained(folder, max_shard_size="100KB" if sharded else "1GB")
    processor.save_pretrained(folder)
    random_image().save(folder / "image.png")
    return folder


@cache
def right_logits() -> torch.Tensor:
    """The logits of the saved model."""
    return made_up_logits(load_for_evaluation(saved(False)).model)


def header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON head of a safetensors file, and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(head: Any, data: bytes) -> bytes:
    """A safetensors file."""
    text = to_json(head).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def broken_files() -> st.SearchStrategy[Broken]:
    """Every file damaged, JSON files and the head of the weights changed as well."""
    whole, shards = saved(False), saved(True)
    files = [file.name for file in whole.iterdir() if file.name != "image.png"]
    trees = {name: json.loads((whole / name).read_text()) for name in JSON_FILES}
    head, _ = header((whole / WEIGHTS).read_bytes())
    some = {name: of for index, (name, of) in enumerate(head.items()) if index % 12 == 0}
    index = json.loads((shards / INDEX).read_text())
    config = changes(trees["config.json"]).map(lambda change: Broken("config.json", change))
    return st.one_of(
        config,
        config,
        *(changes(trees[name]).map(lambda change, name=name: Broken(name, change)) for name in JSON_FILES[1:]),
        changes(some).map(lambda change: Broken(WEIGHTS, change)),
        changes(index).map(lambda change: Broken(INDEX, change, sharded=True)),
        st.builds(Broken, st.sampled_from(files), damages),
        st.builds(Broken, st.sampled_from(files), st.none()),
        st.builds(
            Broken, st.sampled_from([INDEX, "model-00001-of-00005.safetensors"]), damages | st.none(), st.just(True)
        ),
    )


def make(broken: Broken, folder: Path) -> Path:
    """The broken model folder."""
    target = folder / "model"
    shutil.copytree(saved(broken.sharded), target)
    file = target / broken.file
    if broken.change is None:
        file.unlink(missing_ok=True)
    elif isinstance(broken.change, Damage):
        file.write_bytes(broken.change.of(file.read_bytes() if file.exists() else b""))
    elif broken.file == WEIGHTS:
        head, data = header(file.read_bytes())
        file.write_bytes(with_header(broken.change.of(head), data))
    else:
        file.write_text(to_json(broken.change.of(json.loads(file.read_text()))), "utf-8", "surrogatepass")
    return target


def attempt(broken: Broken, folder: Path) -> None:
    """Answer a question by the command line, and compare the logits where neither they nor the method may change."""
    model = make(broken, folder)
    image = model / "image.png"
    command("generate", model, "--image", image, "--prompt", "a", "--max_new_tokens", "2", names=model)
    if broken.file not in ("config.json", WEIGHTS) and "safetensors" not in broken.file:
        logits = made_up_logits(load_for_evaluation(model).model)
        assert torch.equal(logits, right_logits()), "other logits, though neither weights nor configuration changed"


FOLDERS = Category("model folders", st.deferred(broken_files), attempt)
