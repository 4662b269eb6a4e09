"""VQA accuracy, and the normal form in which it compares answers, as the EvalAI server of the VQA challenge does.

Source: the public evaluation of VQA v2 and TextVQA (Goyal et al. 2017, arXiv:1612.00837; Singh et al. 2019,
arXiv:1904.08920), whose oddities are kept because published scores contain them:
a mark is deleted beside a blank and becomes a blank between letters; full stops go unless a digit follows, up to the
32nd; commas, also those inside numbers, go; "none" counts as 0; the digits of larger number words are not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxyv.evaluation.metrics.metric import metric


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


_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_MOST_STOPS = 32  # the public code hands `sub` a flag of this value where it takes a count
_FULL_STOP = re.compile(r"\.(?!\d)")

# Contractions that are completed where one apostrophe is missing. Left out are those whose bare form is a word of
# its own ("well", "its", "were", "ill", "hell", "shell", "shed", "wed", "id").
_CONTRACTIONS = """
ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't
shan't shouldn't wasn't weren't won't wouldn't
could've might've must've not've should've would've what've where've who've they've we've you've
couldn't've hadn't've mightn't've shouldn't've wouldn't've
he'd how'd it'd someone'd something'd there'd they'd where'd who'd you'd
he'd've it'd've she'd've somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've you'd've
he's how's somebody's someone's that's there's what's when's where's who's why's
how'll it'll somebody'll they'll what'll who'll why'll you'll
there're they're what're why're you're
ma'am o'clock 'twas y'all y'all'll y'all'd've 'ow's'at
"""
# Entries of the public table that follow no rule.
_ODD_ENTRIES = {"somebody'd": "somebodyd", "someonell": "someone'll", "somethingll": "something'll"}


def _spellings(contraction: str) -> list[str]:
    """The contraction with one of its apostrophes missing, each in turn."""
    places = [place for place, character in enumerate(contraction) if character == "'"]
    return [contraction[:place] + contraction[place + 1 :] for place in places]


_FULL_FORMS = {
    spelling: contraction for contraction in _CONTRACTIONS.split() for spelling in _spellings(contraction)
} | _ODD_ENTRIES


def normalize_vqa_answer(text: str) -> str:
    """Lower case, without marks and articles, number words as digits, contractions with their apostrophes."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = _without_marks(text).split()
    words = [_DIGITS.get(word, word) for word in words]
    return " ".join(_FULL_FORMS.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    cleaned = text
    for mark in _MARKS:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_blank else " ")
    return _FULL_STOP.sub("", cleaned, count=_MOST_STOPS)
