"""Walking through a recipe's data before training, for `proxyv check-data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from proxyv.config import Recipe
from proxyv.data.encoding import Encoded
from proxyv.data.outcomes import BAD, COUNTS, Outcomes, describe, total
from proxyv.data.readers import Reader
from proxyv.data.training_data import TrainingData
from proxyv.errors import UserError, suggest
from proxyv.model.build import build_processor
from proxyv.pages.ensure import ensure_pages

SHOWN = 20  # messages of each kind that `lines` prints


@dataclass
class SourceReport:
    """One data set under the settings of one stage; crops, tokens and supervised ones of all usable samples."""

    stage: str
    data: str
    samples: int
    usable: int = 0
    with_images: int = 0
    crops: int = 0
    tokens: int = 0
    longest: int = 0
    supervised: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def add(self, encoded: Encoded | None, counts: np.ndarray) -> None:
        """Count one sample: as encoded (None: skipped), and the counts (len(COUNTS),) of what happened to it."""
        for name, count in zip(COUNTS, counts.tolist(), strict=True):
            self.counts[name] += count
        if encoded is None:
            return
        self.usable += 1
        self.with_images += bool(encoded.crops_per_image)
        self.crops += sum(encoded.crops_per_image)
        self.tokens += len(encoded.input_ids)
        self.longest = max(self.longest, len(encoded.input_ids))
        self.supervised += encoded.supervised


@dataclass
class DataReport:
    """`problems` would end a training run; `notes` are what its policies skip or substitute."""

    sources: list[SourceReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary to print: a line for each source, the first notes and problems."""
        shown = [
            f"{source.stage} / {source.data}: {source.usable:,} of {source.samples:,} samples usable, "
            f"{source.with_images:,} with images ({source.crops:,} crops), {source.tokens:,} tokens "
            f"(longest {source.longest:,}), {source.supervised:,} supervised; "
            + describe(np.array([source.counts[name] for name in COUNTS]))
            for source in self.sources
        ]
        for kind, messages in (("note", self.notes), ("problem", self.problems)):
            shown += [f"{kind}: {message}" for message in messages[:SHOWN]]
            if len(messages) > SHOWN:
                shown.append(f"… and {len(messages) - SHOWN:,} more {kind}s (all of them with --json)")
        return shown


def check_data(recipe: Recipe, stage_names: Sequence[str] | None = None) -> DataReport:
    """Read, open and encode every sample of the stages (default: all), under each stage's settings.

    Finds missing files, malformed records, images that do not open, long and unsupervised samples, and data sets with
    more bad records and images than their policies bear.
    Raises UserError for what is wrong with the recipe itself, unknown stages and stages without data included.
    """
    names = list(recipe.stages) if stage_names is None else list(stage_names)
    if not names:
        raise UserError("stages: the recipe has no stage and so no data to check; add one")
    ensure_pages(recipe)
    processor, report = build_processor(recipe), DataReport()
    for stage in names:
        if stage not in recipe.stages:
            raise UserError(f"stages: '{stage}' is no stage{suggest(stage, recipe.stages)}")
        try:
            data = TrainingData(recipe, stage, processor)
        except UserError as error:
            report.problems.append(str(error))
            continue
        for reader in data.readers:
            report.sources.append(_check_source(data, reader, report))
    return report


def _check_source(data: TrainingData, reader: Reader, report: DataReport) -> SourceReport:
    source = SourceReport(data.stage, reader.name, len(reader))
    for index in tqdm(range(len(reader)), desc=f"{data.stage} / {reader.name}", unit="sample", delay=2):
        happened = Outcomes()
        try:
            source.add(data.encode(reader, index, happened), happened.counts)
        except UserError as error:
            report.problems.append(str(error))
            continue
        report.notes += happened.reasons
    bad, limit = total(source.counts, BAD), reader.spec.max_bad_records
    if bad > limit * source.samples:
        found = f"{bad:,} of {source.samples:,} records are malformed or have bad images, more than max_bad_records"
        report.problems.append(f"data.{reader.name}: {found} {limit}; see the notes, mend the data or raise it")
    if not source.usable and not report.problems:
        report.problems.append(f"{reader.file}: no sample is usable in stage '{data.stage}'; see the counts")
    return source


def find_bad_records(reader: Reader) -> dict[int, str]:
    """What is wrong with records of a data set, by their numbers, as far as it can be told without a tokenizer and
    without opening images: they are malformed, or name image files that are not there."""
    bad = reader.faults()
    if reader.spec.images is None:
        return bad
    for number in tqdm(range(len(reader)), desc=f"{reader.name}: images", unit="record", delay=2):
        if number not in bad:
            absent = [one for one in reader[number].images if isinstance(one, Path) and not one.is_file()]
            if absent:
                bad[number] = f"{reader.where_is(number)} image {absent[0]} does not exist"
    return bad
