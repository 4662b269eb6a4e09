"""Words and numbers in a scene, in the manner of TextVQA and OCRBench."""

import numpy as np

from proxyv.pages.kinds.content import numbers, scatter, words
from proxyv.pages.page import Content, PageSpec, Turn
from proxyv.pages.vocabulary import ABOVE, BELOW, WHICH


def compose(rng: np.random.Generator, spec: PageSpec) -> Content:
    """Words and numbers at random places, one per row, on a background that is never uniform.

    The only word or number gets a direct question ("which number"). With three items or more each is also the answer
    to a question that names the next item below or above it ("word above 42").
    """
    texts = words(rng, spec.difficulty.scene_words) + numbers(rng, spec.difficulty.scene_numbers)
    texts = [texts[place] for place in rng.permutation(len(texts))]
    sorts = ["number" if text.isdigit() else "word" for text in texts]
    turns: list[Turn] = [(WHICH[sort], text) for sort, text in zip(sorts, texts, strict=True) if sorts.count(sort) == 1]
    if len(texts) > 2:
        for place in range(len(texts) - 1):
            upper, lower = texts[place], texts[place + 1]
            turns.append((ABOVE[sorts[place]].format(lower), upper))
            turns.append((BELOW[sorts[place + 1]].format(upper), lower))
    return Content(scatter(rng, spec, texts), turns, textured=True)
