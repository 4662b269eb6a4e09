"""How a result says that it is of a dry run, on generated rows (proxyv/evaluation/dry_run.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERATED = "generated"  # a field of the benchmark's definition


def is_dry_run(result: Mapping[str, Any]) -> bool:
    """Whether a benchmark's or a suite's result is of a dry run, of which tables show nothing."""
    parts = result.get("benchmarks")
    parts = [result, *(parts.values() if isinstance(parts, Mapping) else ())]
    definitions = (part.get("benchmark_definition") for part in parts if isinstance(part, Mapping))
    return any(isinstance(definition, Mapping) and bool(definition.get(GENERATED)) for definition in definitions)
