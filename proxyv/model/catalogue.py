"""The catalogue of methods: for each what it does in one line, its paper, where it acts and what it takes.

All of it is read from the code: words from the head of the method's file, which reads

    Name: what it does, in one sentence. [More.]

    Paper: …, arXiv 0000.00000. …

and everything else from the method with its default fields.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from proxyv.files import CHECKOUT
from proxyv.model.method import HOOKS_BEFORE_LLM, HOOKS_INSIDE_LLM, Method, overrides
from proxyv.model.registry import make_method, method_classes

_ONE_LINE = re.compile(r"(?:[^.:]*: )?(.*?\.)(?:\s|$)", re.DOTALL)
_PAPER = re.compile(r"Paper:.*?arXiv:?\s(\d{4}\.\d{5})", re.DOTALL)


@dataclass(frozen=True)
class CatalogueEntry:
    """What the catalogue says about one method, ready for JSON."""

    name: str
    one_line: str
    arxiv: str | None  # None where the file's head names no paper
    link: str | None  # of the paper
    place: str  # "before the LLM", "inside the LLM", "both", "nowhere"
    trained: bool  # False: training-free
    needs: list[str]  # of `proxyv.model.method.NEEDS`
    approximate: bool
    file: str  # relative to the checkout where it lies there


def catalogue() -> list[CatalogueEntry]:
    """An entry for every method there is, those of PROXYV_METHODS too, by name. Raises UserError as the registry."""
    return [entry_of(make_method({"name": name})) for name in sorted(method_classes())]


def entry_of(method: Method) -> CatalogueEntry:
    """The entry of one method."""
    module = sys.modules[type(method).__module__]
    head = inspect.getdoc(module) or ""
    said, paper = _ONE_LINE.match(head), _PAPER.search(head)
    line = " ".join(said[1].split()) if said else ""
    return CatalogueEntry(
        name=method.name,
        one_line=line[:1].upper() + line[1:],
        arxiv=paper[1] if paper else None,
        link=f"https://arxiv.org/abs/{paper[1]}" if paper else None,
        place=_place(method),
        trained=method.trained,
        needs=list(method.needs),
        approximate=method.approximate,
        file=_file(Path(module.__file__ or "")),
    )


def _place(method: Method) -> str:
    before, inside = overrides(method, HOOKS_BEFORE_LLM), overrides(method, HOOKS_INSIDE_LLM)
    if before and inside:
        return "both"
    return "before the LLM" if before else "inside the LLM" if inside else "nowhere"


def _file(path: Path) -> str:
    return (path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path).as_posix()
