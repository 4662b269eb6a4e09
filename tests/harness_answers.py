"""Answers as models give them, made from right ones: other case, marks, phrases around, numbers a little off, other
scripts, nothing at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

Change = Callable[[str, random.Random], str]

PHRASES = (
    """
The answer is {}|the answer is {}.|Answer: {}|({})|{}.|{})|({}) is right|It is {}, surely|Option {}|{}: because|the {}
I choose {} or {}|so it could be {}; thus {}|x = {}|Yes, {}|No. {}|not {}|A {} an|{} {}|'{}'|"{}"|{},|two {}|none|{}/{}
My choice is {}, not A|答案是{}|A {} that is neither A nor B|The correct option is: {}!|final result {} = {}|{}-{}
{} {} {} {} {} words and more
""".replace("\n", "|")
    .strip("|")
    .replace("; ", "\n")
    .split("|")
)
ODD = """
|¿|nan|inf|-Infinity|1e400|%|12%%|ß|ﬁ|ﬁve ﬂags|STRASSE|İ|ＡＢ|Ａ|...|y|n|Y.|yes|no|Yes|No.|y e s|nyes|not sure|no idea
Yes, there is|A|b|C.|(D)|E|A B|A or B|dont|couldnt've|somebody'd|ten|don't know|it's|O'Brien's|a an the|1,234|1.2e3
[0.1, 0.2, 0.3, 0.4]|[0.1 , 0.2, 0.3, 0.4]|[1, 2, 3]|[0.9, 0.9, 0.1, 0.1]|[[0, 0, 1, 1]]|0.1, 0.2, 0.3, 0.4
........................................
""".replace("\n", "|").split("|")
BOXES = ["[{}, {}, {}, {}]", "[{},{},{},{}]", "It is [ {}, {}, {}, {} ].", "[{} , {}, {}, {}]", "({}, {}, {}, {})"]
OFF = (0, 0.01, 0.049, 0.05, 0.051, 0.2, -0.05, -0.06)
CHANGES: tuple[Change, ...] = (
    lambda text, rng: text.upper(),
    lambda text, rng: text.lower(),
    lambda text, rng: text.title(),
    lambda text, rng: text + rng.choice(".,!?;:%)'\" "),
    lambda text, rng: rng.choice(".,(['\"$ ") + text,
    lambda text, rng: rng.choice(PHRASES).replace("{}", text),
    lambda text, rng: rng.choice(PHRASES).replace("{}", text),
    lambda text, rng: text.replace(" ", rng.choice(("  ", "\n", "", "-", "\t", "\u3000"))),
    lambda text, rng: text[: rng.randint(0, len(text))],
    lambda text, rng: "".join(rng.sample(text, len(text))) if len(text) < 12 else text[1:],
    lambda text, rng: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    lambda text, rng: text.replace("ss", "ß").replace("fi", "ﬁ"),
    lambda text, rng: text.replace("'", "").replace(".", ""),
    lambda text, rng: near(text, rng),
    lambda text, rng: near(text, rng),
)


def near(text: str, rng: random.Random) -> str:
    """A number some percent off, written in one of several ways; anything else as it is."""
    try:
        value = float(text.strip("%$").replace(",", "")) * (
            1 + rng.choice((0, 0.01, 0.049, 0.05, 0.051, 0.2, -0.05, -0.06))
        )
    except ValueError:
        return text
    return rng.choice((f"{value:g}", f"{value:.2f}", f"{value:,.1f}", f"{value}%", f"{value / 100:g}", f"{value:.3e}"))


def make_answer(rng: random.Random, right: Sequence[str]) -> str:
    """One answer, without outer blanks, as models' answers are kept."""
    if rng.random() < 0.15:
        return rng.choice(ODD).strip()
    text = rng.choice(list(right))
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
        text = rng.choice(CHANGES)(text, rng)
    return text.strip()


def box_answer(rng: random.Random, bbox: Sequence[float], size: tuple[int, int]) -> str:
    """A box near the right one, in pixels (x, y, width, height), as fractions in one of several writings."""
    x, y, width, height = bbox
    corners = (x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1])
    moved = [value + rng.choice((0, 0.01, 0.05, 0.1, -0.03, 0.4)) for value in corners]
    return rng.choice(BOXES).format(*(round(value, rng.choice((1, 2, 3))) for value in moved))


def right_answers(sample: Any, size: tuple[int, int], rng: random.Random) -> list[str]:
    """What answers to a sample are made from: accepted ones, other options, and words that a judge may trip over."""
    if "bbox" in sample.kept:
        return [box_answer(rng, sample.kept["bbox"], size)]
    options = sample.kept.get("options", {})
    letters = list(options) or (list("ABCD") if sample.references[0] in "ABCD" else [])
    yes_no = ["yes", "no"] if sample.references[0].lower() in ("yes", "no") else []
    return [*sample.references, *sample.references, *letters, *yes_no, *options.values()]
