"""Run tests/contract/test_support.py and keep what passed, for eval/README.md: `python -m tests.support_matrix`."""

import json
import re
import sys

import pytest

from proxyv.environment import environment
from proxyv.files import CHECKOUT
from proxyv.report.markdown import replace_table, table_lines

RESULT = CHECKOUT / "eval" / "results" / "support.json"
WORDS = {"passed": "pass", "failed": "**fails**", "skipped": "needs a GPU", "refused": "refused"}


class Outcomes:
    """A pytest plugin that remembers how each case ended: {"family": {"llama, spatial": {back-end: outcome}}, …}."""

    def __init__(self):
        self.cases = {"family": {}, "method": {}}

    def pytest_runtest_logreport(self, report):
        found = re.search(r"test_(family|method)\[(.+)-(\w+)\]$", report.nodeid)
        if found and (report.when == "call" or report.skipped):
            kind, row, back_end = found.groups()
            outcome = dict(report.user_properties).get("outcome", report.outcome)
            self.cases[kind].setdefault(row.replace("-", ", ", 1), {})[back_end] = outcome


def to_table(title, rows):
    """One row a family and variant, or a method; one column a back-end."""
    back_ends = list(dict.fromkeys(back_end for row in rows.values() for back_end in row))
    cells = [[name, *(WORDS[row[back_end]] for back_end in back_ends)] for name, row in rows.items()]
    return "\n".join(table_lines([title, *back_ends], cells, text_columns=len(back_ends) + 1)) + "\n"


def update(document, cases):
    """Put both tables into a document."""
    replace_table(document, "support", to_table("family, variant", cases["family"]))
    replace_table(document, "method-support", to_table("method", cases["method"]))


if __name__ == "__main__":
    outcomes = Outcomes()
    code = pytest.main([str(CHECKOUT / "tests" / "contract" / "test_support.py"), "-q"], plugins=[outcomes])
    RESULT.write_text(json.dumps({"cases": outcomes.cases, "environment": environment()}, indent=1) + "\n")
    update(CHECKOUT / "eval" / "README.md", outcomes.cases)
    sys.exit(code)
