"""Items of a stage's data → one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from proxyv.data.objectives import Objective
from proxyv.data.training_data import Item
from proxyv.model.processing import ProxyVProcessor


class Collator:
    """Makes batches as the stage's objective does, and adds up what was skipped on the way."""

    def __init__(self, processor: ProxyVProcessor, objective: Objective):
        self.processor, self.objective = processor, objective

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """One batch: the objective's tensors (see its `batch`) and `counts` (len(COUNTS),) int64."""
        counts = torch.from_numpy(np.sum([counts for _, counts in items], axis=0))
        return {"counts": counts, **self.objective.batch(self.processor, [encoded for encoded, _ in items])}
