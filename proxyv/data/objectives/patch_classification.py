"""Which character stands in each patch: pretrains a tiny tower on synthetic pages, in place of CLIP's pretraining.

The tower alone is trained, with a linear head that is thrown away after the stage. A page's cells must be as large as
the tower's patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from proxyv.config import StageSpec
from proxyv.data.encoding import Encoded, stack_crops
from proxyv.data.objectives.objective import Objective, pixel_values
from proxyv.data.readers import GRIDS
from proxyv.data.records import BadRecordError, Sample
from proxyv.errors import UserError
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.vision import patch_features
from proxyv.pages.vocabulary import ALPHABET, BLANK

GLYPHS = ALPHABET + BLANK  # the classes
_CLASS_OF = {character: index for index, character in enumerate(GLYPHS)}


class PatchClassifier(nn.Module):
    """The model's tower and a linear head over characters."""

    def __init__(self, model: ProxyVForConditionalGeneration):
        super().__init__()
        self.tower = model.vision_tower
        self.feature_layer = model.config.feature_layer
        self.head = nn.Linear(model.config.vision_config.hidden_size, len(GLYPHS))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`loss`, the mean cross entropy of crops (B, 3, S, S) float32 with patch classes (B, P) int64."""
        logits = self.head(patch_features(self.tower, pixel_values, self.feature_layer))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())}


class PatchClassification(Objective):
    """The tower, on pages of which every cell's character is known."""

    takes = GRIDS

    def check(self, spec: StageSpec, stage: str) -> None:
        if spec.train != ["tower"]:
            raise UserError(f"stages.{stage}.train: patch_classification trains the tower alone; write [tower]")
        if spec.lora is not None:
            raise UserError(f"stages.{stage}.lora: patch_classification trains without the LLM; remove lora")
        if spec.deepspeed or spec.save_steps:
            raise UserError(f"stages.{stage}: patch_classification takes neither deepspeed nor save_steps; remove them")

    def encode(
        self, processor: ProxyVProcessor, sample: Sample, images: Sequence[Image.Image], image_mode: str | None
    ) -> Encoded:
        """A page as one crop, and the class of each patch in raster order.

        Raises UserError where cells are not patches, BadRecordError for a character that is no class.
        """
        side = round(processor.image_processor.tokens_per_crop**0.5)
        if len(sample.grid) != side or any(len(row) != side for row in sample.grid):
            raise UserError(
                f"data.{sample.source}: record '{sample.id}' has {len(sample.grid)} × {len(sample.grid[0])} cells "
                f"but a crop has {side} × {side} patches; make pages.rows, pages.columns and pages.cell fit the tower"
            )
        try:
            labels = np.array([_CLASS_OF[character] for row in sample.grid for character in row], dtype=np.int64)
        except KeyError as error:
            raise BadRecordError(f"has the unknown character {error}; use those of the pages' alphabet") from error
        crops = stack_crops(processor, processor.image_processor.crops(images[0], "pad"))
        return Encoded(np.zeros(0, dtype=np.int64), labels, crops, (1,))

    def batch(self, processor: ProxyVProcessor, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, 3, S, S) float32 and `labels` (B, P) int64."""
        labels = torch.from_numpy(np.stack([sample.labels for sample in samples]))
        return {"pixel_values": pixel_values(processor, samples), "labels": labels}

    def show(self, processor: ProxyVProcessor, sample: Sample, encoded: Encoded) -> list[str]:
        side = round(len(encoded.labels) ** 0.5)
        rows = ["".join(GLYPHS[label] for label in row) for row in encoded.labels.reshape(side, side)]
        return [f"--- {len(encoded.labels)} supervised patches ---", *(f"|{row}|" for row in rows)]

    def module(self, model: ProxyVForConditionalGeneration) -> nn.Module:
        return PatchClassifier(model)

    def added(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [("tower", parameter) for parameter in module.get_submodule("head").parameters()]
