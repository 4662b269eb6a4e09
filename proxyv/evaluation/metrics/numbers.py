"""Answers that may be numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.metric import metric


@metric()
def relaxed_accuracy(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """ChartQA's measure (Masry et al. 2022, arXiv:2203.10244): numbers within 5 %, other answers equal.

    A percentage counts as its fraction. Where one side is no number or the reference is zero, the texts must
    be equal but for case. The best reference counts. As in lmms-eval, blanks around a text count unless it is a number,
    and "nan" and "inf" are numbers that nothing is near to.
    """
    return {"relaxed_accuracy": float(any(_relaxed_match(prediction, r) for r in references))}


def _relaxed_match(prediction: str, reference: str) -> bool:
    answer, target = _number(prediction), _number(reference)
    if answer is not None and target:
        return abs(answer - target) / abs(target) <= 0.05
    return prediction.lower() == reference.lower()


def _number(text: str) -> float | None:
    """The number a text spells, "12%" as 0.12; None where it spells none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
