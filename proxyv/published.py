"""The paper's published figures, from the one file that holds them: eval/published.json."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from proxyv.errors import UserError

PUBLISHED = Path(__file__).parents[1] / "eval" / "published.json"


@cache
def _rows() -> list[dict[str, Any]]:
    if not PUBLISHED.is_file():
        raise UserError(f"{PUBLISHED}: no such file; run from a checkout of the repository")
    rows: list[dict[str, Any]] = json.loads(PUBLISHED.read_text(encoding="utf-8"))["fine"]
    return rows


def published_figure(recipe: str, figure: str) -> float | None:
    """A figure of the paper (say "flops_reduction_pct") for a recipe named `<llm>-<method>[-l<start layer>]`.

    None where the paper has no such row or figure.
    """
    match = re.fullmatch(r"(.+?)-([a-z_+]+)(?:-l(\d+))?", recipe)
    if match is None:
        return None
    llm, method, start = match[1], match[2], None if match[3] is None else int(match[3])
    for row in _rows():
        if (row["llm"], row["method"], row["start_layer"]) == (llm, method, start):
            return row[figure]
    return None
