"""Boxes in answers compared with the region that was meant."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.metric import metric

RelativeBox = tuple[float, float, float, float]  # x1, y1, x2, y2 as fractions of the image's width and height
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


_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BOX = re.compile(r"\[\s*" + r",\s*".join([_NUMBER] * 4) + r"\s*\]")  # no blank before a comma


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
