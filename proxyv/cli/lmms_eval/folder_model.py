"""The model of a folder for `python -m lmms_eval --model proxyv`."""

from __future__ import annotations

from typing import Any

from proxyv.checkpoints.load import load_for_evaluation
from proxyv.errors import UserError, suggest
from proxyv.evaluation.lmms_eval.model import LmmsEvalModel
from proxyv.model.image_processing import IMAGE_MODES
from proxyv.processes import connect

ARGUMENTS = ("pretrained", "batch_size", "device", "dtype", "attention", "load_in", "image_mode", "seed")


class FolderModel(LmmsEvalModel):
    """`--model_args pretrained=FOLDER,…`.

    Args:
        pretrained: run folder, model folder or adapter folder.
        batch_size, device, dtype, attention, load_in, seed: as in `proxyv eval`.
        image_mode: anyres or pad, in place of the mode saved with the model.

    Raises UserError where there is no model, and for arguments that are unknown or do not fit.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        attention: str | None = None,
        load_in: str | None = None,
        image_mode: str | None = None,
        seed: int = 0,
        **unknown: Any,
    ):
        for name in unknown:
            if name != "max_batch_size":  # lmms-eval hands it over beside the batch size
                raise UserError(f"--model_args: unknown '{name}'{suggest(name, ARGUMENTS)}")
        if pretrained is None:
            raise UserError("--model_args: no 'pretrained'; write pretrained=FOLDER, a run or model folder")
        connect()  # from here on "cuda" is this process's own device
        loaded = load_for_evaluation(str(pretrained), device, dtype, attention, load_in)
        if image_mode is not None:
            if image_mode not in IMAGE_MODES:
                raise UserError(f"--model_args: image_mode '{image_mode}' is unknown{suggest(image_mode, IMAGE_MODES)}")
            loaded.processor.image_processor.image_mode = image_mode
        super().__init__(loaded.model, loaded.processor, batch_size, seed)
