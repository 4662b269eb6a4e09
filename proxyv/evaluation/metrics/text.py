"""The metrics, each one function from one answer to named scores between 0 and 1.

    metric(prediction, references, row) -> {score name: score}

`prediction` is the model's text, `references` are the accepted answers, `row` holds what else the benchmark
keeps of a sample. A benchmark's score is the mean over its samples. All scores are better when higher, except
`edit_distance`. A metric is added by writing one decorated function below; benchmarks find it by name.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from proxyv.errors import UserError, suggest
from proxyv.evaluation.vqa_answers import normalize_vqa_answer

# Raised whenever a definition below changes a score; recorded with every result.
METRICS_VERSION = "1"

MetricFunction = Callable[[str, Sequence[str], Mapping[str, Any]], dict[str, float]]
RowCheck = Callable[[Mapping[str, Any]], str | None]
RelativeBox = tuple[float, float, float, float]  # x1, y1, x2, y2 as fractions of the image's width and height


@dataclass(frozen=True)
class Metric:
    """A metric and what it gives and takes.

    scores: the names of the scores it returns.
    needs: what `row` must hold; `image_size` (width, height in pixels) is always there.
    problem: what is wrong with a row's values, in words; None where they can be scored.
    """

    name: str
    function: MetricFunction
    scores: tuple[str, ...]
    needs: tuple[str, ...] = ()
    uses_references: bool = True
    problem: RowCheck = lambda row: None


METRICS: dict[str, Metric] = {}


def metric(
    *scores: str,
    name: str | None = None,
    needs: tuple[str, ...] = (),
    uses_references: bool = True,
    problem: RowCheck = lambda row: None,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a function as the metric `name` (its own name unless given) with these score names."""

    def register(function: MetricFunction) -> MetricFunction:
        key = name or function.__name__
        METRICS[key] = Metric(key, function, scores or (key,), needs, uses_references, problem)
        return function

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name. Raises UserError, with the nearest known name, for an unknown one."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'{suggest(name, METRICS)}")
    return METRICS[name]


@metric()
def anls(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """Average normalised Levenshtein similarity with threshold 0.5 (Biten et al. 2019, arXiv:1905.13648).

    As lmms-eval computes it: the distance is between lower-cased texts with blanks collapsed, the length it is
    divided by is the longer one of the texts as they came.
    """
    distances = []
    for reference in references:
        length = max(len(reference), len(prediction))
        distance = Levenshtein.distance(_plain(reference), _plain(prediction))
        distances.append(distance / length if length else 0.0)
    similarity = 1.0 - min(distances)
    return {"anls": similarity if similarity >= 0.5 else 0.0}


@metric()
def exact_match(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """1 where the answer equals a reference; case and the number of blanks do not count."""
    return {"exact_match": float(any(_plain(prediction) == _plain(reference) for reference in references))}


@metric()
def relaxed_accuracy(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """ChartQA's measure (Masry et al. 2022, arXiv:2203.10244): numbers within 5 %, other answers equal.

    A percentage counts as its fraction. Where one side is no number or the reference is zero, the texts must
    be equal but for case. The best reference counts.
    """
    return {"relaxed_accuracy": float(any(_relaxed_match(prediction, r) for r in references))}


@metric()
def vqa_accuracy(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """VQA accuracy (Antol et al. 2015, arXiv:1505.00468): one reference per annotator, ten in the benchmarks.

    Each annotator is left out in turn; the answer scores min(1, matches / 3) among the others; the mean counts.
    Answers are compared in the form of `normalize_vqa_answer`.
    """
    answer = normalize_vqa_answer(prediction)
    matches = [normalize_vqa_answer(reference) == answer for reference in references]
    leave_one_out = [min(1.0, (sum(matches) - match) / 3) for match in matches]
    return {"vqa_accuracy": sum(leave_one_out) / len(leave_one_out)}


@metric()
def containment(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """OCRBench (Liu et al. 2023, arXiv:2305.07895): 1 where the answer contains a reference.

    Both in lower case, line breaks as blanks. Formulas of HME100k (`row["dataset"]`) are compared with case and
    without blanks. An empty reference is contained in an empty answer only.
    """
    handwritten_formula = row.get("dataset") == "HME100k"
    form = _formula if handwritten_formula else _line
    answer = form(prediction)
    found = (form(reference) in answer if form(reference) else not answer for reference in references)
    return {"containment": float(any(found))}


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


LARGEST_PIXEL = 2**31
IOU_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
_ACCURACIES = tuple(f"acc@{threshold}" for threshold in IOU_THRESHOLDS)


def _box_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row's box, and with its image's size where that is known already."""
    box, size = row.get("bbox"), row.get("image_size", [1, 1])
    for name, values, count, least in (("bbox", box, 4, -math.inf), ("image_size", size, 2, 1)):
        if not isinstance(values, (list, tuple)) or len(values) != count or not all(map(_is_number, values)):
            return f"{name} is {values!r:.60} and must be {count} numbers"
        if min(values) < least:
            return f"{name} is {values!r:.60} and must be {least} or more"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_PIXEL


@metric("iou", *_ACCURACIES, "center_acc", needs=("bbox", "image_size"), uses_references=False, problem=_box_problem)
def grounding(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """RefCOCO's measures (Kazemzadeh et al. 2014; Yu et al. 2016, arXiv:1608.00272) as lmms-eval computes them.

    `iou`: intersection over union with the gold box; `acc@t`: 1 where it is at least t; `center_acc`: 1 where the
    answer's centre lies in the gold box.

    `row["bbox"]` is the gold region (x, y, width, height) in pixels, `row["image_size"]` (width, height) in
    pixels; the answer's box is in fractions of the image. An answer without a box counts as [0, 0, 0, 0].
    A box turned inside out has no area.
    """
    gold = gold_box(row["bbox"], row["image_size"])
    box = parse_box(prediction)
    overlap = box_iou(box, gold)
    center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = gold[0] <= center_x <= gold[2] and gold[1] <= center_y <= gold[3]
    accuracies = {name: float(overlap >= t) for name, t in zip(_ACCURACIES, IOU_THRESHOLDS, strict=True)}
    return {"iou": overlap, **accuracies, "center_acc": float(inside)}


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


def parse_box(text: str) -> RelativeBox:
    """The first "[a, b, c, d]" in a text; (0, 0, 0, 0) where there is none."""
    found = _BOX.search(text)
    if found is None:
        return (0.0, 0.0, 0.0, 0.0)
    x1, y1, x2, y2 = (float(number) for number in found.groups())
    return (x1, y1, x2, y2)


def gold_box(bbox: Sequence[float], image_size: Sequence[int]) -> RelativeBox:
    """(x, y, width, height) in pixels as corners in fractions of the image's (width, height)."""
    (x, y, box_width, box_height), (width, height) = bbox, image_size
    return (x / width, y / height, (x + box_width) / width, (y + box_height) / height)


def box_iou(a: RelativeBox, b: RelativeBox) -> float:
    """Intersection over union of two boxes; 0 where neither has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - intersection
    return intersection / union if union > 0 else 0.0


def _area(box: RelativeBox) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _plain(text: str) -> str:
    """Lower case, no outer blanks, inner blanks collapsed."""
    return " ".join(text.lower().split())


def _line(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.replace("\n", " ").replace(" ", "").strip()


def _relaxed_match(prediction: str, reference: str) -> bool:
    prediction, reference = prediction.strip(), reference.strip()
    answer, target = _number(prediction), _number(reference)
    if answer is not None and target:
        return abs(answer - target) / abs(target) <= 0.05
    return prediction.lower() == reference.lower()


def _number(text: str) -> float | None:
    """The number a text spells, "12%" as 0.12; None where it spells none, or no finite one."""
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
