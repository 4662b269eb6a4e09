"""Training: the stages of a recipe, in order, on Hugging Face's Trainer.

run.py         a recipe → a run folder: stages in order, interrupted ones resumed
stage.py       one stage: model, data, trainer, the folder it leaves
settings.py    a stage's fields → Trainer's arguments, checked
adapters.py    a stage's `lora` → adapters inside the model
parameters.py  module groups: what trains, at which rate; the table before step 1
optimizer.py   AdamW, and Muon for matrices
trainer.py     Hugging Face's Trainer with our order, rates and log
patches.py     the stand-in objective that pretrains a tiny tower
"""

from proxyv.train.run import train

__all__ = ["train"]
