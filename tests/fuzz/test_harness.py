"""The harness notices what it is for: tracebacks, several lines, hangs, wrong acceptances."""

import contextlib
import time

import pytest
from hypothesis import strategies as st

from proxyv.errors import UserError
from tests.fuzz import outcomes
from tests.fuzz.outcomes import ACCEPTED, HANG, REFUSED, TRACEBACK, WRONG, Category, command


def attempt(case, folder):
    if case == "hang":
        time.sleep(5)
    if case == "swallowed hang":
        with contextlib.suppress(Exception):
            time.sleep(5)
    if case == "wrong":
        raise AssertionError
    if case == "refused":
        raise UserError("x: is wrong; mend it")
    if case == "traceback":
        raise KeyError("x")
    if case == "unnamed":
        command("report", folder / "absent", names="another file")


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("fine", ACCEPTED),
        ("refused", REFUSED),
        ("traceback", TRACEBACK),
        ("unnamed", TRACEBACK),
        ("wrong", WRONG),
        ("hang", HANG),
        ("swallowed hang", HANG),
    ],
)
def test_each_outcome_is_told(monkeypatch, case, outcome):
    monkeypatch.setattr(outcomes, "LIMIT", 0.2)
    assert Category("harness", st.just(case), attempt).outcome(case)[0] == outcome
