"""Run tests/contract/test_support.py and keep what passed, for the README: `python -m tests.support_matrix`."""

import json
import re
import sys
from pathlib import Path

import pytest

from proxyv.environment import environment
from proxyv.report import replace_table

REPO = Path(__file__).resolve().parents[1]
RESULT = REPO / "eval" / "results" / "support.json"
WORDS = {"passed": "pass", "failed": "**fails**", "skipped": "needs a GPU"}


class Outcomes:
    """A pytest plugin that remembers how each case ended."""

    def __init__(self):
        self.cases = {}

    def pytest_runtest_logreport(self, report):
        found = re.search(r"test_back_end\[(.+)\]$", report.nodeid)
        if found and (report.when == "call" or report.skipped):
            family, variant, back_end = re.fullmatch(r"(\w+)-([\w-]+?)-(\w+)", found[1]).groups()
            self.cases.setdefault(family, {}).setdefault(variant, {})[back_end] = report.outcome


def to_table(cases):
    """One row a family and variant, one column a back-end."""
    back_ends = list(dict.fromkeys(b for variants in cases.values() for row in variants.values() for b in row))
    lines = [f"| family | variant | {' | '.join(back_ends)} |", "| --- | --- |" + " --- |" * len(back_ends)]
    for family, variants in cases.items():
        for variant, row in variants.items():
            lines.append(f"| {family} | {variant} | {' | '.join(WORDS[row[b]] for b in back_ends)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    outcomes = Outcomes()
    code = pytest.main([str(REPO / "tests" / "contract" / "test_support.py"), "-q"], plugins=[outcomes])
    RESULT.write_text(json.dumps({"cases": outcomes.cases, "environment": environment()}, indent=1) + "\n")
    replace_table(REPO / "README.md", "support", to_table(outcomes.cases))
    sys.exit(code)
