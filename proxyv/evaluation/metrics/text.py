"""Texts compared with the accepted ones."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from proxyv.evaluation.metrics.metric import metric


@metric()
def anls(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """Average normalised Levenshtein similarity with threshold 0.5 (Biten et al. 2019, arXiv:1905.13648).

    As the benchmarks' server computes it, and lmms-eval: the distance is between lower-cased texts with blanks
    collapsed, the length it is divided by is that of the longer text in upper case, blanks included ("ß" counts twice).
    """
    distances = []
    for reference in references:
        length = max(len(reference.upper()), len(prediction.upper()))
        distance = Levenshtein.distance(_plain(reference), _plain(prediction))
        distances.append(distance / length if length else 0.0)
    similarity = 1.0 - min(distances)
    return {"anls": similarity if similarity >= 0.5 else 0.0}


@metric()
def exact_match(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer equals a reference; case and the number of blanks do not count."""
    return {"exact_match": float(any(_plain(prediction) == _plain(reference) for reference in references))}


@metric()
def unpunctuated_match(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer equals a reference; case and ASCII punctuation do not count, as in lmms-eval's GQA."""
    return {"unpunctuated_match": float(unpunctuated(prediction) in map(unpunctuated, references))}


@metric()
def containment(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """OCRBench (Liu et al. 2023, arXiv:2305.07895) as in lmms-eval: 1 where the answer contains a reference.

    Both in lower case, line breaks as blanks, full-width letters as ASCII. Formulas of HME100k (`row["dataset"]`) are
    compared with case and without blanks. An empty reference is contained in every answer.
    """
    return {"containment": _contains(prediction, references, row, lambda text: _line(text.translate(_ASCII)))}


@metric()
def containment_official(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """As `containment`, by OCRBench's own code: full-width letters stay what they are."""
    return {"containment_official": _contains(prediction, references, row, _line)}


def unpunctuated(text: str) -> str:
    """Lower case, without ASCII punctuation. A text that grows in lower case ("İ") is cut to its length before, as
    NumPy does, through which lmms-eval lowers."""
    return text.lower()[: len(text)].translate(_NO_PUNCTUATION)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Full-width letters and the wide blank that goes with them.
_ASCII = {ord(" ") + 0xFEE0 + place: ord(" ") + place for place in range(1, 95)} | {0x3000: ord(" ")}


def _contains(prediction: str, references: Sequence[str], row: Mapping[str, Any], form: Callable[[str], str]) -> float:
    form = _formula if row.get("dataset") == "HME100k" else form
    return float(any(form(reference) in form(prediction) for reference in references))


def _plain(text: str) -> str:
    """Lower case, no outer blanks, inner blanks collapsed."""
    return " ".join(text.lower().split())


def _line(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
