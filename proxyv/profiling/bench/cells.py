"""The cells of a timing run: one model at one setting each, all of them timed in turn, round after round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from proxyv.errors import UserError
from proxyv.profiling.bench.device import MatrixRate
from proxyv.profiling.bench.models import Candidate
from proxyv.profiling.bench.timing import PARTS, TIMES, split_pass, timed_pass
from proxyv.profiling.memory import peak_memory
from proxyv.profiling.sample import make_inputs, method_crops
from proxyv.results.bench import Rounds


class Setting(NamedTuple):
    """What models are compared at; ratios are formed within one setting only."""

    attention: str
    batch_size: int
    crops: int


@dataclass
class Cell:
    """One model at one setting. `failed`: why there are no figures, in one line."""

    candidate: Candidate
    setting: Setting
    inputs: dict[str, Any]
    rounds: Rounds = field(default_factory=lambda: {name: [] for name in TIMES})
    parts: Rounds = field(default_factory=lambda: {f"{part}_ms": [] for part in PARTS})
    peak_memory: int | None = None  # bytes; None where it cannot be counted
    failed: str | None = None


def make_cells(
    candidates: Sequence[Candidate], settings: Sequence[Setting], text_tokens: int, refused: dict[str, str]
) -> list[Cell]:
    """All models at all settings, each with random images; `refused`: back-end → why it cannot run at all."""
    cells = []
    for setting in settings:
        for candidate in candidates:
            crops = method_crops(candidate.recipe, setting.crops)
            inputs = make_inputs(candidate.model, crops, text_tokens, setting.batch_size)
            generator = torch.Generator(candidate.model.device).manual_seed(0)
            inputs["pixel_values"].normal_(generator=generator)  # a blank image leaves nothing to choose from
            cells.append(Cell(candidate, setting, inputs, failed=refused.get(setting.attention)))
    return cells


def time_cells(
    cells: Sequence[Cell], new_tokens: int, warmup: int, repeats: int, splits: int, rate: MatrixRate | None
) -> list[float]:
    """Fill in the cells' rounds, parts and memory. A cell that fails stays out of all further rounds.

    Returns the device's matrix rate in every round that counts, in TFLOP/s; empty without `rate`.
    """
    rates = []
    # The bar appears only where the run turns out to be long.
    alive = sum(cell.failed is None for cell in cells)
    bar = tqdm(total=(warmup + repeats + 1) * alive, desc="bench", unit="pass", delay=3, leave=False)
    for index in range(warmup + repeats):
        if rate is not None and index >= warmup:
            rates.append(rate.measure())
        for cell in _turn(cells, index):
            with _failing(cell):
                times = timed_pass(cell.candidate.model, cell.inputs, new_tokens)
                if index >= warmup:
                    _note(cell.rounds, times)
                if 0 <= index - warmup < splits:
                    _note(cell.parts, split_pass(cell.candidate.model, cell.inputs))
            bar.update()
    for cell in _turn(cells, 0):
        if cell.candidate.model.device.type == "cpu" and cell.setting.attention == "flex_attention":
            continue  # its tensors cannot be counted
        with _failing(cell):
            cell.peak_memory = peak_memory(cell.candidate.model, cell.inputs)
        bar.update()
    bar.close()
    return rates


def _turn(cells: Sequence[Cell], index: int) -> Iterator[Cell]:
    """The cells that have not failed, setting after setting, with their back-end switched on. Within a setting the
    round decides who begins, so that nobody always runs behind the same neighbour."""
    for _, group in groupby(cells, key=lambda cell: cell.setting):
        alive = [cell for cell in group if cell.failed is None]
        first = index % max(len(alive), 1)
        for cell in [*alive[first:], *alive[:first]]:
            if _switch(cell):
                yield cell


def _switch(cell: Cell) -> bool:
    """Switch a model's back-end on. False where it cannot be had: not for this device, or not from the hub."""
    model, attention = cell.candidate.model, cell.setting.attention
    if model.config._attn_implementation != attention:
        try:
            model.set_attn_implementation(attention)
        except UserError as error:
            cell.failed = str(error)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            cell.failed = _one_line(error)
    return cell.failed is None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def _failing(cell: Cell) -> Iterator[None]:
    """Note on a cell why it cannot run, where the other cells may: a combination that is not supported, not enough
    memory, a kernel that refuses. Errors that only a mistake in a program raises are not caught."""
    try:
        yield
    except UserError as error:
        cell.failed = str(error)
    except torch.OutOfMemoryError:
        cell.failed = "out of memory"
    except (ImportError, RuntimeError) as error:
        cell.failed = _one_line(error)


def _note(rounds: Rounds, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        rounds[name].append(value)
