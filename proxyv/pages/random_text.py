"""Random words, numbers, answers and images for generated rows: of all the kinds that real ones are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

One = TypeVar("One")

LETTERS = "ABCDEFGH"
_PLAIN = "river Market the net total data year sales left Right banana cat answer no yes both of ten none Option SMALL"
_ODD = "Straße café 東京 2nd blue-green O'Brien don't U.S. A & p.m. naïve % it's ＡＢＣ"
WORDS = (*_PLAIN.split(), *_ODD.split())


class Draw:
    """Draws from one random stream."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.asked = 0

    def count(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        return int(self.rng.integers(least, most + 1))

    def one(self, choices: Sequence[One]) -> One:
        """One of the choices."""
        return choices[self.count(0, len(choices) - 1)]

    def word(self) -> str:
        """A word, often an odd one."""
        return self.one(WORDS)

    def words(self, most: int) -> str:
        """One to `most` words."""
        return " ".join(self.word() for _ in range(self.count(1, most)))

    def number(self) -> str:
        """A number as answers spell it: whole, a fraction, with thousands, a share, a price, zero."""
        value = round(float(self.rng.normal(0, 10 ** self.count(0, 4))), self.count(0, 2))
        return self.one(
            (f"{value:g}", f"{abs(value):,.0f}", f"{value:.1f}%", f"${abs(value):.2f}", str(int(value)), "0")
        )

    def question(self) -> str:
        """A question that is asked once."""
        return f"{self.one(('what is', 'Which', 'How many'))} {self.thing(4)}?"

    def thing(self, most: int) -> str:
        """One to `most` words and a number, which are said once."""
        self.asked += 1
        return f"{self.words(most)} {self.asked}"

    def answer(self) -> str:
        """A short answer."""
        return self.one((self.words(3), self.number()))

    def answers(self, most: int) -> list[str]:
        """One to `most` accepted answers."""
        return [self.answer() for _ in range(self.count(1, most))]

    def annotations(self, annotators: int) -> list[str]:
        """The answers of that many annotators, who partly agree."""
        few = [self.answer() for _ in range(3)]
        return [self.one(few) for _ in range(annotators)]

    def options(self, count: int) -> list[str]:
        """The texts of that many options, all different."""
        found: list[str] = []
        while len(found) < count:
            found += [text for text in (self.answer(),) if text not in found]
        return found

    def page(self) -> str:
        """The text of a page, a few lines long."""
        return "\n".join(" ".join(self.word() for _ in range(self.count(3, 8))) for _ in range(self.count(2, 5)))

    def image(self) -> Image.Image:
        """A small image of one colour."""
        size = (self.count(30, 90), self.count(30, 90))
        return Image.new("RGB", size, (self.count(0, 255), self.count(0, 255), self.count(0, 255)))
