"""What stands on a synthetic page, what is asked about it, and how it is drawn."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from proxyv.errors import UserError
from proxyv.pages import (
    ALPHABET,
    DIFFICULTIES,
    KINDS,
    QUESTION_WORDS,
    TEXT_CHARACTERS,
    Page,
    PageSpec,
    make_page,
)
from proxyv.pages.difficulty import resolve_difficulty
from proxyv.pages.generate import split_of

SPECS = {
    "easy": PageSpec(),
    "medium": PageSpec(difficulty=DIFFICULTIES["medium"]),
    "hard": PageSpec(difficulty=DIFFICULTIES["hard"]),
    "wide hard": PageSpec(rows=4, columns=15, cell=20, difficulty=DIFFICULTIES["hard"]),
    "smallest hard": PageSpec(rows=4, columns=7, cell=8, difficulty=DIFFICULTIES["hard"]),
    "large medium": PageSpec(rows=24, columns=24, difficulty=DIFFICULTIES["medium"]),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
every_kind = pytest.mark.parametrize("kind", KINDS)


def pages(kind: str, spec: PageSpec, count: int = 12) -> list[Page]:
    return [make_page(kind, index, spec, seed=1) for index in range(count)]


def same(one: Page, other: Page) -> bool:
    return replace(one, image=None) == replace(other, image=None) and one.image.tobytes() == other.image.tobytes()


@every_spec
@every_kind
def test_page_has_the_promised_shape(kind: str, spec: PageSpec) -> None:
    for page in pages(kind, spec, 3):
        assert page.image.size == (spec.columns * spec.cell, spec.rows * spec.cell)
        assert page.image.mode == ("RGB" if kind == "scene" else "L")
        assert len(page.grid) == spec.rows
        assert {len(line) for line in page.grid} == {spec.columns}
        assert set("".join(page.grid)) <= set(ALPHABET + " ")
        assert page.transcript == "\n".join(re.sub(" +", " ", line.strip()) for line in page.grid if line.strip())
        assert page.turns
        assert len({question for question, _ in page.turns}) == len(page.turns)


@every_spec
@every_kind
def test_every_text_is_made_of_the_vocabulary(kind: str, spec: PageSpec) -> None:
    for page in pages(kind, spec):
        for question, answer in page.turns:
            words = re.findall("[a-z]+", question)
            assert words
            assert set(words) <= set(QUESTION_WORDS)
            assert set(re.sub("[a-z]+", "", question) + answer + page.transcript) <= set(TEXT_CHARACTERS)


def test_question_words_come_from_the_templates() -> None:
    used = {
        word
        for kind in KINDS
        for page in pages(kind, SPECS["hard"], 30) + pages(kind, SPECS["easy"], 10) + pages(kind, SPECS["medium"])
        for question, _ in page.turns
        for word in re.findall("[a-z]+", question)
    }
    assert used == set(QUESTION_WORDS)


@every_spec
def test_document_answers_follow_from_the_grid(spec: PageSpec) -> None:
    for page in pages("documents", spec):
        lines = [line.split() for line in page.grid if line.strip()]
        assert len(lines) >= 4
        assert page.turns == [(f"value of {label}", value) for label, value in lines]
        assert all(re.fullmatch("[1-9][0-9]{2}", value) for _, value in lines)


@every_spec
def test_chart_answers_follow_from_the_grid(spec: PageSpec) -> None:
    for page in pages("charts", spec):
        lines = [re.fullmatch(r"([A-Z]+) ?(#+) ?(\d\d)", line.strip()) for line in page.grid if line.strip()]
        values = {line[1]: int(line[3]) for line in lines if line}
        bars = {line[1]: len(line[2]) for line in lines if line}
        assert len(values) == len(lines) >= 4
        answers = dict(page.turns)
        assert {label: int(answers.pop(f"value of {label}")) for label in values} == values
        by_value = sorted(values, key=lambda label: values[label])
        assert answers == {"largest bar": by_value[-1], "smallest bar": by_value[0]}
        assert [bars[label] for label in by_value] == sorted(bars.values())


@every_spec
def test_scene_answers_follow_from_the_grid(spec: PageSpec) -> None:
    for page in pages("scene", spec):
        items = page.transcript.split("\n")
        sort = {item: "number" if item.isdigit() else "word" for item in items}
        for question, answer in page.turns:
            match question.split():
                case ["which", wanted]:
                    assert [item for item in items if sort[item] == wanted] == [answer]
                case [wanted, side, other]:
                    step = -1 if side == "above" else 1
                    assert items[items.index(other) + step] == answer
                    assert sort[answer] == wanted


@every_spec
def test_dense_answer_is_the_transcript(spec: PageSpec) -> None:
    for page in pages("dense", spec):
        assert page.turns == [("transcribe", page.transcript)]
        # Blanks are single, so the transcript keeps every cell of every line.
        assert page.transcript == "\n".join(line for line in page.grid if line.strip())
        assert "#" not in page.transcript


@every_spec
def test_boxes_cover_their_words(spec: PageSpec) -> None:
    width, height = spec.size
    for page in pages("boxes", spec):
        assert len(page.boxes) == len(page.turns)
        for question, answer in page.turns:
            word = question.split()[-1]
            x, y, w, h = page.boxes[word]
            row, first, last = y // spec.cell, x // spec.cell, (x + w) // spec.cell
            assert page.grid[row][first:last] == word
            assert h == spec.cell
            assert re.fullmatch(r"\[\d\.\d\d, \d\.\d\d, \d\.\d\d, \d\.\d\d\]", answer)
            exact = (x / width, y / height, (x + w) / width, (y + h) / height)
            assert np.abs(np.array(json.loads(answer)) - exact).max() <= 0.005 + 1e-9


@every_kind
def test_ink_stands_in_the_cells_that_hold_characters(kind: str) -> None:
    """On an easy page the middle of every written cell differs from its surroundings, blank cells do not."""
    for page in pages(kind, SPECS["easy"]):
        grey = np.asarray(page.image.convert("L"), float)
        cells = grey.reshape(8, 14, 8, 14).swapaxes(1, 2)
        for row in range(8):
            for column in range(8):
                inner = cells[row, column, 3:11, 3:11]
                assert (inner.min() < 100) == (page.grid[row][column] != " ")


@every_kind
def test_page_is_a_pure_function_of_its_arguments(kind: str) -> None:
    spec = SPECS["hard"]
    forwards = [make_page(kind, index, spec, seed=3) for index in range(4)]
    backwards = [make_page(kind, index, spec, seed=3) for index in reversed(range(4))]
    assert all(same(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))
    assert not same(forwards[0], make_page(kind, 0, spec, seed=4))
    assert forwards[0].grid != forwards[1].grid
    assert forwards[0].grid != make_page(kind, 0, spec, seed=3, split="test").grid


def test_page_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from proxyv.pages import KINDS, make_page; import zlib;"
        "print([(p.turns, zlib.crc32(p.image.tobytes())) for p in (make_page(k, 5, seed=9) for k in KINDS)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "value of A" in outputs.pop()


@every_kind
def test_training_and_test_pages_never_share_content(kind: str) -> None:
    spec = SPECS["easy"]
    train = {make_page(kind, index, spec, seed=0).transcript for index in range(100)}
    test = {make_page(kind, index, spec, seed=0, split="test").transcript for index in range(50)}
    assert not train & test
    # Not by chance: the transcript alone decides, so other seeds and indices cannot mix them either.
    assert {split_of(kind, transcript) for transcript in train} == {"train"}
    assert {split_of(kind, transcript) for transcript in test} == {"test"}


@every_kind
def test_difficulty_changes_the_image(kind: str) -> None:
    easy, medium, hard = (pages(kind, SPECS[name], 20) for name in ("easy", "medium", "hard"))

    def roughness(made: list[Page]) -> float:
        """Share of neighbouring pixels that differ: what noise and texture raise."""
        return float(np.mean([np.mean(np.diff(np.asarray(page.image, int), axis=1) != 0) for page in made]))

    def characters(made: list[Page]) -> int:
        return sum(len("".join(page.grid).replace(" ", "")) for page in made)

    assert roughness(easy) < roughness(medium) < roughness(hard)
    assert characters(easy) < characters(medium) < characters(hard)


def test_easy_labels_are_in_order_and_hard_ones_have_two_letters() -> None:
    def labels(name: str) -> set[str]:
        turns = [turn for page in pages("documents", SPECS[name]) for turn in page.turns]
        return {question.split()[-1] for question, _ in turns}

    assert labels("easy") == {"A", "B", "C", "D"}
    assert len(labels("medium")) > 15
    assert {len(label) for label in labels("hard")} == {2}


@pytest.mark.parametrize("field", ["rows", "columns", "cell"])
def test_too_small_a_page_is_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"{field}: 3 is too small"):
        PageSpec(**{field: 3})


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="kind: unknown page kind 'maps'"):
        make_page("maps", 0, seed=0)
    with pytest.raises(UserError, match="seed: -1 is negative"):
        make_page("scene", 0, seed=-1)
    with pytest.raises(UserError, match="difficulty: unknown name 'brutal'"):
        resolve_difficulty("brutal")
    with pytest.raises(UserError, match="label_letters is 3; use 1 to 2"):
        replace(DIFFICULTIES["easy"], label_letters=3)
