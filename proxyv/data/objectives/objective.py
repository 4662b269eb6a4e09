"""The interface of an objective. Generic code calls the methods below and does not know which objective it is:

check, check_processor   before training: do the stage's fields and the chat template suit
encode                   one sample → token ids, labels, crops
batch                    encoded samples → what `forward` of the trained module takes
module, added            what Trainer trains, and what of it is no part of the model
show                     a sample as text, for `proxyv show-sample`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from proxyv.config import StageSpec
from proxyv.data.encoding import Encoded
from proxyv.data.records import Sample
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor


class Objective:
    """What a sample becomes, and what is trained on it. Holds no state: one object serves all stages."""

    takes: ClassVar[str]  # what the samples must hold: a reader's `gives`

    def check(self, spec: StageSpec, stage: str) -> None:
        """Raise UserError for the first field of the stage that the objective cannot do with."""

    def check_processor(self, processor: ProxyVProcessor) -> None:
        """Raise UserError where samples cannot be encoded by this processor."""

    def encode(
        self, processor: ProxyVProcessor, sample: Sample, images: Sequence[Image.Image], image_mode: str | None
    ) -> Encoded:
        """A sample and its opened images as arrays.

        image_mode: "anyres" or "pad"; None: the processor's own.

        Raises BadRecordError, saying why, for a sample that cannot be encoded.
        """
        raise NotImplementedError

    def batch(self, processor: ProxyVProcessor, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """The tensors of one batch; "labels" among them."""
        raise NotImplementedError

    def show(self, processor: ProxyVProcessor, sample: Sample, encoded: Encoded) -> list[str]:
        """Lines of text from which a person sees what is fed and what is supervised."""
        raise NotImplementedError

    def module(self, model: ProxyVForConditionalGeneration) -> nn.Module:
        """What Trainer trains: takes a batch by keyword and gives a mapping with its `loss`. Default: the model."""
        return model

    def added(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """What of `module` is no part of the model, each with the module group whose rate it takes. Default: none."""
        return []


def pixel_values(processor: ProxyVProcessor, samples: Sequence[Encoded]) -> torch.Tensor:
    """The crops (C, 3, S, S) float32 of all samples in reading order, normalised for the tower."""
    crops = np.concatenate([sample.crops for sample in samples])
    return torch.from_numpy(processor.image_processor.normalise(crops))
