"""Checkpoints of others and adapter folders: one file changed, then converted, merged or exported."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from hypothesis import strategies as st

from proxyv.checkpoints.adapter_folder import save_model
from proxyv.checkpoints.load import load_for_evaluation
from proxyv.config import LoRASpec, StageSpec
from proxyv.train.adapters import adapt
from tests.fuzz.model_folders import saved
from tests.fuzz.nasty import Change, Damage, changes, damages, to_json
from tests.fuzz.outcomes import Category, command
from tests.tiny import METHODS, tiny_model
from tests.unit.convert.test_convert import their_config, their_weights, write_checkpoint, write_tower


@dataclass(frozen=True)
class Broken:
    """A command, one file of what it reads, and what was done to it; None: it is gone."""

    word: str
    file: str
    change: Change | Damage | None


@cache
def sources() -> Path:
    """A checkpoint of the authors' for convert, an adapter folder for merge, a model for export; kept to the end."""
    folder = Path(tempfile.mkdtemp(prefix="proxyv-fuzz-"))
    model, processor = tiny_model(method=METHODS[1])
    tower = write_tower(folder / "tower", model)
    write_checkpoint(folder / "convert", their_weights(model), their_config(model, tower), shards=2, as_bin=True)
    processor.tokenizer.save_pretrained(folder / "convert")
    shutil.copytree(saved(False), folder / "export")
    spec = StageSpec(data=[], train=["llm"], lora=LoRASpec(rank=2, targets=["q_proj"]))
    adapt(model, spec, "finetune", folder / "export", folder / "merge")
    save_model(model, folder / "merge")
    processor.save_pretrained(folder / "merge")
    return folder


def broken_files() -> st.SearchStrategy[Broken]:
    """Every file damaged or gone, JSON files changed as well."""
    folder = sources()
    strategies = []
    for word in ("convert", "merge", "export"):
        files = [str(file.relative_to(folder / word)) for file in (folder / word).rglob("*") if file.is_file()]
        strategies.append(st.builds(Broken, st.just(word), st.sampled_from(files), damages | st.none()))
        for name in files:
            if name.endswith("config.json") or name.endswith(".index.json"):
                tree = json.loads((folder / word / name).read_text())
                strategies.append(changes(tree).map(lambda change, word=word, name=name: Broken(word, name, change)))
    return st.one_of(strategies)


def attempt(broken: Broken, folder: Path) -> None:
    """Run the command; what it leaves must load."""
    shutil.copytree(sources() / broken.word, folder / "source")
    file, change, target = folder / "source" / broken.file, broken.change, folder / "target"
    if change is None:
        file.unlink()
    elif isinstance(change, Damage):
        file.write_bytes(change.of(file.read_bytes()))
    else:
        file.write_text(to_json(change.of(json.loads(file.read_text()))), "utf-8", "surrogatepass")
    words = ["--chat_template", "characters"] if broken.word == "convert" else []
    command(broken.word, folder / "source", target, *words)
    loaded = load_for_evaluation(target)
    assert all(
        bool(torch.isfinite(value).all()) or broken.file.endswith((".bin", ".safetensors"))
        for value in loaded.model.state_dict().values()
    )


CHECKPOINTS = Category("checkpoints", st.deferred(broken_files), attempt)
