"""A folder on disk ↔ a model.

run_folder.py         what lies where in a run folder, and which model is its final one
checkpoint_folder.py  a stage's checkpoints: put into place whole, found damaged, kept
adapter_folder.py     what an adapter folder holds; model folders and adapter folders → models
load.py               run folder → model, processor, recipe, ready to answer
merge.py              an adapter folder → an ordinary model folder, logits compared
export.py             a model → a folder for the Hugging Face hub
model_card.py         what the card of that folder says
"""
