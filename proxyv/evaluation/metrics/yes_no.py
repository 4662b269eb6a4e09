"""Questions to answer with yes or no."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxyv.errors import UserError
from proxyv.evaluation.metrics.metric import Total, grouped, metric
from proxyv.results.scores import AnswerRecord

POPE_SCORES = ("accuracy", "precision", "recall", "f1")


def _plain(text: str) -> str:
    return text.lower().strip()


def _official_answer(text: str) -> str:
    """ "no" where the first sentence has that word or "not", else "yes"."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _pope_totals(read: Callable[[str], str], ending: str, yes_of: str) -> Total:
    """Precision, recall and F1 of "yes"; `yes_of`: the share of yes among "answers" or "references"."""

    def totals(records: Sequence[AnswerRecord]) -> dict[str, float]:
        pairs = Counter((_plain(record["references"][0]), read(record["prediction"])) for record in records)
        right, false_yes, false_no = pairs["yes", "yes"], pairs["no", "yes"], pairs["yes", "no"]
        precision, recall = _share(right, false_yes), _share(right, false_no)
        yes = sum(n for (gold, answer), n in pairs.items() if (answer if yes_of == "answers" else gold) == "yes")
        scores = {
            "accuracy": statistics.fmean(record["scores"][f"accuracy{ending}"] for record in records),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            f"yes_{yes_of}": yes / len(records),
        }
        return {f"{name}{ending}": score for name, score in scores.items()}

    return totals


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part else 0.0


@metric(*POPE_SCORES, "yes_references", total=_pope_totals(_plain, "", "references"))
def pope(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """POPE (Li et al. 2023, arXiv:2305.10355) as in lmms-eval: the answer must be the word alone, case aside.

    Precision, recall and F1 are those of "yes"; an answer that is neither word counts for accuracy only.
    `yes_references` is the share of yes among the references, which lmms-eval calls yes_ratio.
    """
    return {"accuracy": float(_plain(prediction) == _plain(references[0]))}


_OFFICIAL = tuple(f"{name}_official" for name in (*POPE_SCORES, "yes_answers"))


@metric(*_OFFICIAL, total=_pope_totals(_official_answer, "_official", "answers"))
def pope_official(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """As `pope`, by the benchmark's own code: "no" where the first sentence has that word or "not", else "yes".

    `yes_answers_official` is the share of yes among the answers.
    """
    return {"accuracy_official": float(_official_answer(prediction) == _plain(references[0]))}


PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _mme_answer(text: str) -> str:
    """ "yes", "no" or "other": the word alone, its first letter, or the word within the first four characters."""
    text = text.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def _mme_totals(records: Sequence[AnswerRecord]) -> dict[str, float]:
    pairs = grouped(records, lambda record: (record["row"]["category"], record["row"]["question_id"]), "acc")
    for (category, image), scores in pairs.items():
        if len(scores) > 2:
            raise UserError(f"category '{category}', image '{image}': {len(scores)} questions; MME asks two")
    by_category: dict[str, list[list[float]]] = {}
    for (category, _), scores in pairs.items():
        by_category.setdefault(category, []).append(scores)
    sums = {category: _accuracy(of) + _accuracy_plus(of) for category, of in by_category.items()}
    return {
        "perception": sum(sums.get(category, 0.0) for category in PERCEPTION) / (2 * len(PERCEPTION)),
        "cognition": sum(s for category, s in sums.items() if category not in PERCEPTION) / (2 * len(COGNITION)),
        "acc": _accuracy([*pairs.values()]),
        "acc_plus": _accuracy_plus([*pairs.values()]),
    }


def _accuracy(pairs: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(statistics.fmean(scores) for scores in pairs)


def _accuracy_plus(pairs: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(min(scores) for scores in pairs)


@metric(*("perception", "cognition", "acc", "acc_plus"), needs=("question_id", "category"), total=_mme_totals)
def mme(prediction: str, references: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """MME (Fu et al. 2023, arXiv:2306.13394), as in lmms-eval: two questions on each image.

    `acc`: of single answers; `acc_plus`: of images, both answers right; `perception` and `cognition`: the sum
    of the two over 10 and 4 categories, as a share of what can be reached (2000 and 800 points). An image of which one
    question was asked only, as with a limit, counts by that one.
    """
    return {"acc": float(_mme_answer(prediction) == _plain(references[0]).replace(".", ""))}
