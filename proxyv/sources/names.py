"""What `proxyv data` takes as names: a source, or a benchmark or suite, which means the sources that it reads."""

from __future__ import annotations

from collections.abc import Sequence

from proxyv.errors import UserError, suggest
from proxyv.sources.source import Source, all_sources, load_source, source_names


def find_sources(names: Sequence[str]) -> list[Source]:
    """The sources that names mean, each once, in the order of the names; all of them without a name.

    Raises UserError for a name that is no source, benchmark or suite, and for a benchmark without a source.
    """
    if not names:
        return all_sources()
    known = set(source_names())
    found = [one for name in names for one in ([load_source(name)] if name in known else _read_by(name))]
    return list({one.name: one for one in found}.values())


def _read_by(name: str) -> list[Source]:
    # Imported here: the evaluation brings torch with it, which fetching a source does not need.
    from proxyv.evaluation.benchmarks import list_names, load_benchmark, load_suite

    if name in list_names("suites"):
        benchmarks = load_suite(name).benchmarks
    elif name in list_names("benchmarks"):
        benchmarks = [name]
    else:
        words = {*source_names(), *list_names("suites"), *list_names("benchmarks")}
        raise UserError(f"unknown source, benchmark or suite '{name}'{suggest(name, words)}")
    return [source for benchmark in benchmarks for source in sources_of(benchmark, load_benchmark(benchmark).data)]


def sources_of(benchmark: str, data: str) -> list[Source]:
    """The sources whose files a benchmark reads. Raises UserError where there is none."""
    found = [source for source in all_sources() if source.holds(data)]
    if not found:
        raise UserError(f"benchmark {benchmark}: {data} is of no source in configs/sources; it is made or put there")
    return found
