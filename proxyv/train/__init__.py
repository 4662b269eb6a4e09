"""Training: the stages of a recipe, in order, on Hugging Face's Trainer.

run.py         a recipe → a run folder: stages in order, interrupted ones resumed
stage.py       one stage from top to bottom: model, data, trainer, the folder it leaves
start.py       the model a stage starts from
settings.py    a stage's fields → Trainer's arguments, checked
adapters.py    a stage's `lora` → adapters inside the model
parameters.py  module groups: what trains, at which rate; the table before step 1
optimizer.py   AdamW, and Muon for matrices
trainer.py     Hugging Face's Trainer with our order, rates and log

What a stage learns, next tokens or (for a tiny tower) patches, is its objective: proxyv/data/objectives.
"""

from proxyv.train.run import train

__all__ = ["train"]
