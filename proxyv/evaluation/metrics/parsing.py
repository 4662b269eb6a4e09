"""Transcribed pages compared with their text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from proxyv.evaluation.metrics.metric import metric


@metric()
def bleu(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """BLEU-4 of one text (Papineni et al. 2002, aclanthology.org/P02-1040), by NLTK, not smoothed.

    Uniform weights; tokens are what blanks separate.

    Two cases NLTK leaves to the caller: texts too short for 4-grams use n-grams up to the longest reference's
    length, so that a perfect short answer scores 1; where some n-gram order has no match at all the score is 0
    (NLTK returns about 1e-78 and warns).
    """
    from nltk.translate.bleu_score import sentence_bleu

    answer = prediction.split()
    golds = [reference.split() for reference in references]
    order = min(4, max(len(gold) for gold in golds))
    if order == 0 or not answer:
        return {"bleu": float(not answer and order == 0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = float(sentence_bleu(golds, answer, weights=(1 / order,) * order))
    return {"bleu": min(score, 1.0) if score > 1e-9 else 0.0}


@metric()
def edit_distance(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """Characters to change divided by the longer text's length; 0 is perfect. The nearest reference counts."""
    return {"edit_distance": min(Levenshtein.normalized_distance(prediction, r) for r in references)}
