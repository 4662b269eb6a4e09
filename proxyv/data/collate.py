"""Items of a stage's data → one batch of tensors."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

from proxyv.data.objectives import Objective
from proxyv.data.training_data import Item
from proxyv.model.processing import ProxyVProcessor


class Collator:
    """Makes batches as the stage's objective does, and adds up what was skipped on the way."""

    def __init__(self, processor: ProxyVProcessor, objective: Objective):
        self.processor, self.objective = processor, objective

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """One batch: the objective's tensors (see its `batch`) and `counts` (len(COUNTS),) int64."""
        if get_worker_info() is not None:  # a scheduler signals all processes, and the main one has to save
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        counts = torch.from_numpy(np.sum([counts for _, counts in items], axis=0))
        return {"counts": counts, **self.objective.batch(self.processor, [encoded for encoded, _ in items])}
