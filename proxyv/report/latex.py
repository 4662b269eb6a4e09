"""LaTeX tables, in the form that papers use: `\\usepackage{booktabs}` is all they need."""

from __future__ import annotations

from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "–": "--",
    "…": r"\dots{}",
    "\n": " ",
}


def escape(text: str) -> str:
    """A text in which no character means anything to LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], text_columns: int = 1) -> str:
    """A `tabular` whose first `text_columns` columns are aligned left and all others right, notes as comments below."""
    lines = [
        r"\begin{tabular}{" + "l" * text_columns + "r" * (len(head) - text_columns) + "}",
        r"\toprule",
        _line(head),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {' '.join(note.split())}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
