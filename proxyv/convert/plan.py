"""A conversion as data: which checkpoints go in, what each of their weights becomes, and what must come out.

The plan is first run on the meta device, where missing, unused and misshapen weights show; only then is anything
written, one source file at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from proxyv.convert.weights import WeightFiles
from proxyv.errors import UserError

Tensors = dict[str, torch.Tensor]
# (their name, tensor) → what it becomes: nothing ({}) where it is left out on purpose, None where it is unknown.
# Their weight may be on the meta device: then shapes and dtypes alone matter.
Translate = Callable[[str, torch.Tensor], Tensors | None]

# Buffers that old transformers versions saved; every version computes them.
COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")


@dataclass(frozen=True)
class Part:
    """One checkpoint of those that make the target."""

    weights: WeightFiles
    translate: Translate


@dataclass
class ConversionPlan:
    """All that is needed to write a model."""

    source: str  # for errors
    model: PreTrainedModel  # the target on the meta device
    parts: list[Part]
    dtype: torch.dtype
    fresh: Tensors = field(default_factory=dict)  # parameters that no part has, with their initial values
    notes: list[str] = field(default_factory=list)  # what a user must know about the result

    def check(self) -> list[tuple[Part, Path]]:
        """Run the plan on shapes only. Returns the files that give anything.

        Raises UserError with all missing, unused and misshapen weights in one line.
        """
        files, made, unused = [], dict(self.fresh), []
        for part in self.parts:
            for file in part.weights.files:
                before = len(made)
                for name, tensor in part.weights.outline(file).items():
                    becomes = self._translated(part, name, tensor)
                    if becomes is None:
                        unused.append(name)
                    made |= becomes or {}
                if len(made) > before:
                    files.append((part, file))
        wanted = expected(self.model)
        misshapen = [
            f"{name} {tuple(made[name].shape)} for {tuple(wanted[name].shape)}"
            for name in made.keys() & wanted.keys()
            if made[name].shape != wanted[name].shape
        ]
        unused += made.keys() - wanted.keys()
        problems = {"missing": wanted.keys() - made.keys(), "unused": unused, "misshapen": misshapen}
        listed = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names)
        if listed:
            raise UserError(f"{self.source}: the weights do not fit the configuration: {listed}")
        return files

    def tensors(self, part: Part, file: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """What one source file becomes: our names and tensors in the target's shapes and dtype, each with its own
        memory."""
        for name, tensor in part.weights.read(file):
            for ours, value in (self._translated(part, name, tensor) or {}).items():
                value = value.to(self.dtype).contiguous()
                shared = value.untyped_storage().nbytes() != value.numel() * value.element_size()
                yield ours, value.clone() if shared and file.suffix != ".safetensors" else value

    def _translated(self, part: Part, name: str, tensor: torch.Tensor) -> Tensors | None:
        """What a weight becomes, without tied copies and without what every version computes."""
        becomes = {} if name.endswith(COMPUTED) else part.translate(name, tensor)
        return becomes and {ours: value for ours, value in becomes.items() if ours not in self._tied}

    @cached_property
    def _tied(self) -> set[str]:
        return tied_names(self.model)

    def write(self, target: Path) -> None:
        """Write safetensors, one file for each source file that gives anything, and their index.

        Raises UserError as `check` does; nothing is written then.
        """
        files = self.check()
        target.mkdir(parents=True, exist_ok=True)
        index: dict[str, str] = {}
        size = 0
        for number, (part, file) in enumerate(tqdm(files, desc="convert", unit="file", disable=None), start=1):
            tensors = {disk_name(name): value for name, value in self.tensors(part, file)}
            if number == len(files):
                tensors |= {disk_name(name): value.to(self.dtype) for name, value in self.fresh.items()}
            name = f"model-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else "model.safetensors"
            save_file(tensors, target / name, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, name)
            size += sum(value.numel() * value.element_size() for value in tensors.values())
        if len(files) > 1:
            content = {"metadata": {"total_size": size}, "weight_map": index}
            (target / "model.safetensors.index.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def tied_names(model: nn.Module) -> set[str]:
    """Parameters that are another parameter once more; a checkpoint does not hold them."""
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - dict(model.named_parameters()).keys()


def expected(model: nn.Module) -> Tensors:
    """What a checkpoint of `model` holds: its state without what every version computes and without tied copies."""
    tied = tied_names(model)
    return {name: t for name, t in model.state_dict().items() if name not in tied and not name.endswith(COMPUTED)}


def disk_name(name: str) -> str:
    """A parameter's name in files: transformers nests a tower's weights below `vision_model` there, whichever way
    its version names them in memory."""
    rest = name.removeprefix("vision_tower.")
    return name if rest == name or rest.startswith("vision_model.") else f"vision_tower.vision_model.{rest}"
