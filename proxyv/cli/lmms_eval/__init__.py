"""An entrance from another command line: `python -m lmms_eval --model proxyv --model_args pretrained=FOLDER`.

pyproject.toml registers `manifest` in the entry-point group `lmms_eval.models`. lmms-eval calls it in every run,
whatever the model, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """lmms-eval's card of our model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    # Of lmms-eval's two kinds of model the simple one: tasks that are overridden for local files are built for it.
    return ModelManifest(model_id="proxyv", simple_class_path=f"{__name__}.folder_model.FolderModel")
