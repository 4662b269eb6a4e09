"""Every broken input is taken for what it is or refused in one line, within a time limit: see `Category`.

A few hundred cases, always the same; thousands of random ones with `--hypothesis-profile thorough` (tests/README.md).
"""

import pytest
from hypothesis import given, settings

from tests.fuzz.categories import CATEGORIES
from tests.fuzz.outcomes import ACCEPTED, REFUSED

# Cases of the normal run, by what one takes: 40 seconds of one core in all.
CASES = {
    "recipes": 40,
    "overrides": 20,
    "records": 60,
    "images": 80,
    "model folders": 30,
    "checkpoints": 20,
    "benchmark data": 60,
    "suites": 60,
    "result files": 12,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_broken_input_is_handled_or_refused_in_one_line(category):
    thorough = not settings.default.derandomize
    examples = settings.default.max_examples if thorough else CASES[category.name]
    found = []

    @settings(max_examples=examples)
    @given(category.cases)
    def holds(case):
        outcome, text = category.outcome(case)
        found.append(outcome)
        assert outcome in (ACCEPTED, REFUSED), f"{outcome}: {text}"

    holds()
    assert {ACCEPTED, REFUSED} <= set(found)  # else the cases would show nothing
