"""Training: the stages of a recipe, in order, on Hugging Face's Trainer.

run.py         a recipe → a run folder: stages in order, interrupted ones resumed
run_folder.py  what lies where in a run folder, and which model is its final one
stage.py       one stage: model, data, trainer, the folder it leaves
settings.py    a stage's fields → Trainer's arguments, checked
parameters.py  module groups: what trains, at which rate; the table before step 1
optimizer.py   AdamW, and Muon for matrices
trainer.py     Hugging Face's Trainer with our order, rates and log
patches.py     the stand-in objective that pretrains a tiny tower
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyv.train.run import train
    from proxyv.train.run_folder import find_model

# Imported on first use: finding a model needs no Trainer.
_HOME = {"find_model": "proxyv.train.run_folder", "train": "proxyv.train.run"}

__all__ = ["find_model", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
