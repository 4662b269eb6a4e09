"""Which option an answer names: the letter that free text states, as lmms-eval finds it.

Both rules take texts that may argue, quote options or punctuate as they like, and are defined by nothing but their
code (`_task_utils/mcq_extract.py` and `mmbench/mmbench_evals.py` of lmms-eval 0.7.3); here they are written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

LETTERS = "ABCDEFGH"

_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
_OTHER_STATEMENTS = ("i choose", "i select", "i pick", "my answer is", "my choice is")
_FOREIGN_STATEMENTS = ("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは")
_STATEMENTS = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("", "the ")),
    *_OTHER_STATEMENTS,
    *_FOREIGN_STATEMENTS,
)
_WRITTEN = ("({})", "{}.", "{}:", "{})", "{} ", "{}")  # from the surest to the least sure


def stated_letter(answer: str, letters: Sequence[str] = "ABCD") -> str:
    """The letter that an answer states; "" where it states none.

    From the surest on: the letter begins the answer, ends it, follows words such as "the answer is", stands in
    brackets, before a full stop, a colon, a bracket, a blank, or anywhere. Among letters stated alike the last counts.
    `letters` may be empty: then any from A to H.
    """
    text = answer.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    letters = letters or LETTERS
    for places in zip(*(_places(f" {text} ", letter) for letter in letters), strict=True):
        if max(places) >= 0:
            return letters[places.index(max(places))]
    return ""


def _places(text: str, letter: str) -> Iterator[int]:
    """Where a text states a letter, in each of the ways from the surest on; below 0: nowhere."""
    bare, lower = text.strip(), text.lower()
    yield 0 if bare.startswith(letter) and not bare[1:2].isalpha() else -1
    yield 0 if bare.endswith(letter) and not bare[-2:-1].isalpha() else -1
    yield max(text.find(letter, lower.find(s) + len(s)) if s in lower else -1 for s in _STATEMENTS)
    for form in _WRITTEN:
        yield text.rfind(form.format(letter))


# How MMBench expects a letter to stand between blanks, besides bare.
_BETWEEN_BLANKS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


def inferred_letter(answer: str, options: Mapping[str, str]) -> str:
    """The letter of an answer by MMBench's rules, then by `stated_letter`; "" where there is none.

    A letter from A to E between blanks, bare or with the usual marks, where it is the only one so; a bare "A" in more
    than three words may be the article and does not count. Then the only option whose text the answer contains, case
    aside.
    """
    words = answer.split()
    for form in ("{}", *_BETWEEN_BLANKS):
        found = [letter for letter in "ABCDE" if form.format(letter) in words]
        article = form == "{}" and found == ["A"] and len(words) > 3
        if len(found) == 1 and not article:
            return found[0]
    named = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else stated_letter(answer, sorted(options))
