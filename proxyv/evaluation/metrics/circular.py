"""MMBench: each question is asked once for each turn of its options, and must be answered every time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.letters import inferred_letter
from proxyv.evaluation.metrics.metric import grouped, metric
from proxyv.results.scores import AnswerRecord

COPIES = 1_000_000  # a copy's index is that of its question plus a multiple of this


def _index_problem(row: Mapping[str, Any]) -> str | None:
    index = row.get("index")
    return None if isinstance(index, int) else f"index is {index!r:.60} and must be a whole number"


def _totals(records: Sequence[AnswerRecord]) -> dict[str, float]:
    questions = grouped(records, lambda record: record["row"]["index"] % COPIES, "single")
    return {
        "circular": statistics.fmean(min(scores) for scores in questions.values()),
        "single": statistics.fmean(record["scores"]["single"] for record in records),
    }


@metric("circular", "single", needs=("index", "A", "B", "C", "D"), problem=_index_problem, total=_totals)
def circular(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """MMBench (Liu et al. 2023, arXiv:2307.06281) without a judge, as lmms-eval's `mmbench_en_dev_static`.

    `single`: 1 where the letter of the answer is right; `circular`: the share of questions of which every copy is
    answered right. Letters are found as `inferred_letter` does. Options that are missing have the text "nan" in the
    data, which is looked for like the others; null leaves an option out.
    """
    options = {letter: str(row[letter]) for letter in "ABCD" if row[letter] is not None}
    return {"single": float(inferred_letter(prediction, options) == references[0])}
