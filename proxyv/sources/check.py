"""What lies on disk of a source: files, checksums, counts, columns, and whether its readers take it. No network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
from tqdm import tqdm

from proxyv.config import DataSpec
from proxyv.data.checks import find_bad_records
from proxyv.data.readers import READERS
from proxyv.errors import UserError, reading
from proxyv.evaluation.benchmarks import list_names, load_benchmark
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.files import CHECKOUT
from proxyv.schema import from_mapping, resolved
from proxyv.sources.fetched import Fetched, read_fetched, record_file, sha256
from proxyv.sources.source import Source, SourceFiles
from proxyv.yaml_files import read_yaml

SHOWN = 20  # messages of each kind that `lines` prints


@dataclass
class SourceCheck:
    """`problems` keep the data from being used as published; `notes` say what was found, and what is not known."""

    source: str
    files: int = 0
    gigabytes: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary to print."""
        shown = [f"{self.source}: {self.files:,} files, {self.gigabytes:.3f} GB"]
        for kind, messages in (("note", self.notes), ("problem", self.problems)):
            shown += [f"  {kind}: {message}" for message in messages[:SHOWN]]
            if len(messages) > SHOWN:
                shown.append(f"  … and {len(messages) - SHOWN:,} more {kind}s (all of them with --json)")
        return shown


def check_source(source: Source, data_root: str | Path) -> SourceCheck:
    """Check what lies in a source's folder below `data_root`, as far as it goes; see SourceCheck."""
    report = SourceCheck(source.name)
    folder = Path(data_root) / source.folder
    found = {
        files.pattern: sorted(path for path in folder.glob(files.pattern) if path.is_file()) for files in source.files
    }
    there = [path for paths in found.values() for path in paths]
    report.files, report.gigabytes = len(there), sum(path.stat().st_size for path in there) / 1e9
    report.problems += _missing(source, folder, found)
    _compare_checksums(source, data_root, read_fetched(source, data_root), report)
    if any(not paths for paths in found.values()):
        return report
    for files in source.files:
        _compare_table(source, files, found[files.pattern], report)
    for read in (*_read_as_benchmarks(source, data_root), *_read_as_training_data(source, data_root)):
        problem, said = read
        (report.problems if problem else report.notes).append(said)
    return report


def _missing(source: Source, folder: Path, found: dict[str, list[Path]]) -> Iterator[str]:
    for pattern, paths in found.items():
        if not paths:
            yield f"{folder / pattern} is not there; run `proxyv data fetch {source.name}`, or put it there"
    for one in source.by_hand:
        place = folder / one.folder
        if not place.is_dir() or not any(place.iterdir()):
            yield f"{place} is empty or not there: {one.what}, from {one.origin}"
    own = {path for paths in found.values() for path in paths}
    for archive, target in source.unpack.items():
        place = folder / target
        if not place.is_dir() or not set(place.iterdir()) - own:
            yield f"{place} has nothing out of {archive}; run `proxyv data fetch {source.name}`, or unpack it there"


def _compare_checksums(source: Source, data_root: str | Path, fetched: Fetched | None, report: SourceCheck) -> None:
    """With what was recorded when the files arrived, and with what the source's file pins."""
    folder = Path(data_root) / source.folder
    if fetched is None:
        record = record_file(source, data_root)
        report.notes.append(f"no checksums to compare with: {record} is not there, as `proxyv data fetch` leaves it")
    elif not fetched["complete"]:
        report.problems.append(f"the fetch stopped half-way; run `proxyv data fetch {source.name}` again")
    if fetched and source.revision not in (None, fetched["commit"]):
        report.problems.append(f"fetched at {fetched['commit']}, and {source.revision} is pinned; fetch it again")
    recorded = {path: file["sha256"] for path, file in fetched["files"].items()} if fetched else {}
    promised = {**recorded, **(source.checksums or {})}
    for path, digest in tqdm(promised.items(), desc=f"{source.name}: checksums", unit="file", delay=2):
        file = folder / path
        if not file.is_file():
            report.problems.append(f"{file} is recorded and not there; run `proxyv data fetch {source.name}`")
        elif sha256(file) != digest:
            report.problems.append(f"{file} is not as it was (SHA-256); delete it and fetch it again")
    if fetched and not report.problems:
        report.notes.append(f"{len(promised):,} checksums as recorded, {fetched['hub']} at {fetched['commit']}")


def _compare_table(source: Source, files: SourceFiles, paths: list[Path], report: SourceCheck) -> None:
    """Counts and columns of parquet files with those published."""
    if not all(path.suffix == ".parquet" for path in paths):
        return
    rows = 0
    columns: set[str] = set()
    for path in paths:
        try:
            with reading(path, "delete it and fetch it again"):
                table = pyarrow.parquet.ParquetFile(path)
                rows, columns = rows + table.metadata.num_rows, columns | set(table.schema_arrow.names)
        except UserError as error:
            report.problems.append(str(error))
            return
    if files.rows is not None and rows != files.rows:
        said = f"{files.pattern}: {rows:,} rows, {files.rows:,} published"
        if "rows" in source.unverified:
            report.notes.append(f"{said} (a figure that is not verified)")
        else:
            report.problems.append(f"{said}; fetch it again, or correct configs/sources/{source.name}.yaml")
    absent = sorted(set(source.columns) - columns)
    if absent and len(source.files) == 1:
        report.notes.append(f"{files.pattern}: without the published columns {', '.join(absent)}")


def _read_as_benchmarks(source: Source, data_root: str | Path) -> Iterator[tuple[bool, str]]:
    """Whether it is a problem, and what is to be said, of each benchmark that reads the source."""
    for name in list_names("benchmarks"):
        benchmark = load_benchmark(name)
        if source.holds(benchmark.data):
            try:
                yield False, f"benchmark {name}: {len(BenchmarkSamples(benchmark, data_root)):,} samples"
            except UserError as error:
                yield True, str(error)


def _read_as_training_data(source: Source, data_root: str | Path) -> Iterator[tuple[bool, str]]:
    """As `_read_as_benchmarks`, of each data set of configs/data that reads the source."""
    for part in sorted((CHECKOUT / "configs" / "data").glob("*.yaml")):
        data = resolved(read_yaml(part), str(part)).get("data") or {}
        for name, values in data.items():
            spec = from_mapping(DataSpec, values, str(part), f"data.{name}")
            if source.holds(spec.path):
                yield _read_records(name, spec, data_root)


def _read_records(name: str, spec: DataSpec, data_root: str | Path) -> tuple[bool, str]:
    try:
        reader = READERS[spec.reader](name, spec, data_root)
    except UserError as error:
        return True, str(error)
    bad = find_bad_records(reader)
    said = f"data set {name}: {len(reader):,} records, {len(bad):,} malformed or with images that are not there"
    first = f", the first: {bad[min(bad)]}" if bad else ""
    return len(bad) > spec.max_bad_records * len(reader), said + first
