"""Multiple choice: the reference is a letter, and each benchmark reads answers in its own way."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.letters import stated_letter
from proxyv.evaluation.metrics.metric import Total, grouped, metric
from proxyv.evaluation.metrics.text import unpunctuated
from proxyv.results.scores import AnswerRecord

_LETTER_AND_POINT = re.compile(r"\s*([A-Z])\.")


@metric()
def letter_first(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer's first character is the letter, case aside, as in lmms-eval's SEED-Bench."""
    letters = {reference.strip().lower() for reference in references}
    return {"letter_first": float(prediction.strip()[:1].lower() in letters)}


@metric()
def letter_alone(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer is the letter, case aside, or begins with it and a full stop, as in lmms-eval's ScienceQA."""
    answer = prediction.strip()
    letter = answer[0] if answer[:1].isupper() and answer[1:2] == "." else answer
    return {"letter_alone": float(letter.lower() in {reference.lower() for reference in references})}


@metric()
def letter_unpunctuated(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer is the letter, case and punctuation aside, or begins with it and a full stop, as in
    lmms-eval's AI2D."""
    found = _LETTER_AND_POINT.match(prediction)
    letter = unpunctuated(found[1] if found else prediction.strip())
    return {"letter_unpunctuated": float(letter in map(unpunctuated, references))}


@metric()
def letter_or_text(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """RealWorldQA as in lmms-eval: a letter from A to D is looked for as `stated_letter` does; any other reference must
    be the whole answer, case and full stops at its end aside."""
    (reference, *_) = references
    gold = reference.strip()
    if gold.upper() in ("A", "B", "C", "D"):
        return {"letter_or_text": float(stated_letter(prediction) == gold.upper())}
    return {"letter_or_text": float(prediction.lower().strip().rstrip(".") == gold.lower())}


def _mean_over_groups(score: str) -> Total:
    """The mean over the finer categories of the mean in each."""

    def total(records: Sequence[AnswerRecord]) -> dict[str, float]:
        groups = grouped(records, lambda record: record["row"]["l2_category"], score)
        return {score: statistics.fmean(statistics.fmean(of_group) for of_group in groups.values())}

    return total


@metric(needs=("l2_category",), total=_mean_over_groups("mmstar"))
def mmstar(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """MMStar (Chen et al. 2024, arXiv:2403.20330) as in lmms-eval 0.7: the stated letter; the mean over the 18 finer
    categories counts."""
    return {"mmstar": float(stated_letter(prediction) == references[0].strip().upper())}


@metric(needs=("l2_category",), total=_mean_over_groups("mmstar_official"))
def mmstar_official(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """As `mmstar`, by the benchmark's own code and lmms-eval before 0.7: the letter begins the answer, alone, behind an
    opening bracket, or behind "Option" or "The answer is"."""
    gold, answer = references[0].strip().lower(), prediction.strip().lower().replace("\n", " ")
    beginnings = ("", "(", "option ", "the answer is ")
    return {"mmstar_official": float(any(answer.startswith(beginning + gold) for beginning in beginnings))}
