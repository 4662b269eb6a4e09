"""What a stage has done so far, over all its legs: what the log and finished.json tell, kept with every checkpoint.

A leg is the stretch between two starts. Steps that were lost with a killed leg are done again and count once.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from proxyv import processes
from proxyv.constants import IGNORE_INDEX
from proxyv.data.outcomes import COUNTS
from proxyv.errors import UserError
from proxyv.files import read_json, write_json

PROGRESS = "progress.json"  # in a checkpoint
ROWS = ("tokens", "supervised_tokens")  # all rows, and those with a label


class Progress:
    """Sums since the stage began, and what has come in since the last line of the log.

    Sums of samples and tokens are this process's own; `totals` adds up all processes'.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.loss = torch.zeros((), device=device)  # float32, this process's losses since the last line of the log
        self.logged_step = 0  # of that line
        self.sums = torch.zeros(len(ROWS) + len(COUNTS), dtype=torch.int64)
        self.waited = 0.0  # seconds for data, since the last line of the log
        self.legs, self.earlier = 1, 0.0  # seconds of earlier legs
        self.began = self.interval = time.perf_counter()
        self.before = dict.fromkeys(ROWS, 0)  # totals at the last line of the log, or at the start of this leg

    @property
    def seconds(self) -> float:
        """Of all legs."""
        return self.earlier + time.perf_counter() - self.began

    def add(self, batch: dict[str, Any]) -> None:
        """Count a micro-batch, and take its counts (len(COUNTS),) out of it."""
        rows = batch.get("attention_mask", batch["labels"] != IGNORE_INDEX)
        tokens = torch.stack([rows.sum(), (batch["labels"] != IGNORE_INDEX).sum()])
        self.sums += torch.cat([tokens.to(self.sums), batch.pop("counts").to(self.sums)])

    def totals(self, sums: torch.Tensor | None = None) -> dict[str, int]:
        """The names of ROWS and COUNTS with the sums of all processes."""
        everywhere = processes.gather((self.sums if sums is None else sums).tolist())
        return {name: sum(of) for name, *of in zip((*ROWS, *COUNTS), *everywhere, strict=True)}

    def mean_loss(self, step: int) -> float:
        """The mean over processes and the steps since the last line of the log; starts a new sum."""
        everywhere = torch.tensor(processes.gather(self.loss.item()))
        mean = everywhere.mean().item() / (step - self.logged_step)
        self.loss, self.logged_step = torch.zeros_like(self.loss), step
        return mean

    def figures(self) -> dict[str, float]:
        """What a line of the log tells of the stretch since the last one, and of the stage so far."""
        totals, now = self.totals(), time.perf_counter()
        rates = {f"{name}_per_second": (totals[name] - self.before[name]) / (now - self.interval) for name in ROWS}
        figures = {**rates, "data_wait_seconds": self.waited, "elapsed_seconds": self.seconds}
        self.before, self.interval, self.waited = {name: totals[name] for name in ROWS}, now, 0.0
        return {**figures, **{name: totals[name] for name in COUNTS if totals[name]}}

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint, for all processes; only the main one writes.

        Raises UserError for a loss that is not finite: its checkpoint would push out a good one.
        """
        losses, totals = processes.gather(self.loss.item()), self.totals()
        if not all(map(math.isfinite, losses)):
            raise UserError(f"{folder.name}: the loss before it is not finite; lower the learning rate")
        if processes.is_main():
            state = {"legs": self.legs, "seconds": self.seconds, "logged_step": self.logged_step}
            write_json(folder / PROGRESS, {**state, "losses": losses, "totals": totals})

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's state, as another leg."""
        state = read_json(folder / PROGRESS)
        totals = state["totals"]
        self.loss = torch.tensor(state["losses"][processes.rank()], device=self.device)
        self.logged_step, self.legs, self.earlier = state["logged_step"], state["legs"] + 1, state["seconds"]
        if processes.is_main():  # the sums of all processes, in one of them
            self.sums = torch.tensor([totals.get(name, 0) for name in (*ROWS, *COUNTS)])
        self.before = {name: totals[name] for name in ROWS}
