"""Count what becomes of many broken inputs, category by category:

python -m tests.fuzz.corpus --cases 3000 [--seed 1] [--only recipes]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter

# Read by the libraries when they are imported.
os.environ.update(
    HF_DATASETS_CACHE=tempfile.mkdtemp(),
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="Agg",
)

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from tests.fuzz.categories import CATEGORIES  # noqa: E402
from tests.fuzz.outcomes import OUTCOMES, Category  # noqa: E402


def count(category: Category, cases: int, start: int, show: int) -> Counter[str]:
    """The outcomes of random cases; failures are printed."""
    found: Counter[str] = Counter()
    said: Counter[str] = Counter()

    @seed(start)
    @settings(
        max_examples=cases,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(category.cases)
    def run(case: object) -> None:
        outcome, text = category.outcome(case)
        found[outcome] += 1
        if outcome not in ("accepted", "refused"):
            last = text.strip().splitlines()[-1][:150]
            said[last] += 1
            if said[last] <= show:
                print(f"--- {category.name}: {outcome}: {case!r:.400}\n{text[-1500:]}", flush=True)
        if os.environ.get("FUZZ_SHOW") == outcome:
            print(f"{outcome}: {case!r:.300}: {text[:400]}", flush=True)

    run()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000, help="over all categories")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a category")
    parser.add_argument("--show", type=int, default=1, help="examples printed of each failure")
    args = parser.parse_args()
    chosen = [category for category in CATEGORIES if args.only in (None, category.name)]
    print(f"{'category':<18}" + "".join(f"{outcome:>18}" for outcome in OUTCOMES) + f"{'seconds':>10}")
    total: Counter[str] = Counter()
    for category in chosen:
        began = time.perf_counter()
        found = count(category, -(-args.cases // len(chosen)), args.seed, args.show)
        total += found
        print(
            f"{category.name:<18}"
            + "".join(f"{found[o]:>18}" for o in OUTCOMES)
            + f"{time.perf_counter() - began:>10.1f}",
            flush=True,
        )
    print(f"{'all':<18}" + "".join(f"{total[o]:>18}" for o in OUTCOMES))
    raise SystemExit(any(total[outcome] for outcome in OUTCOMES[2:]))


if __name__ == "__main__":
    main()
