"""A stage's samples, encoded, with its policies for bad records and images, long samples and unsupervised ones."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from math import gcd

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from proxyv.config import Recipe
from proxyv.data.encoding import Encoded
from proxyv.data.images import BadImageError, blank_image, open_image
from proxyv.data.objectives import objective_of
from proxyv.data.outcomes import BAD, SKIPPED, Outcome, Outcomes, describe, no_counts, total
from proxyv.data.readers import READERS, Reader, check_source, open_reader
from proxyv.data.records import BadRecordError, Sample
from proxyv.errors import UserError
from proxyv.model.processing import ProxyVProcessor
from proxyv.schema import check_dataclass

# Once so many samples were seen, more than half with the same lack end the run.
PROBATION = 64
WATCHED = {
    Outcome.UNSUPERVISED_SKIPPED: "no supervised token; see `proxyv show-sample`, fix llm.chat_template or the data",
    Outcome.IMAGE_MARKS_AS_TEXT: "<image> marks and no image; name images in each record's 'image' or take marks out",
}
# So many samples, of all processes, make a share that `max_bad_records` is held against.
FAIR_SHARE = 1000
# So many samples in a row without a usable one end it too.
PATIENCE = 1000
CACHE_BYTES = 512 * 2**20
NAMED = 20  # bad records and images that a process names in the log; more are only counted

log = logging.getLogger(__name__)

Item = tuple[Encoded, np.ndarray]  # a usable sample, and the counts (len(COUNTS),) of what was skipped before it


class TrainingData(Dataset[Item]):
    """All data sets of a stage in a row. Item i is sample i, or a usable one in its stead, with what was skipped.

    A sample is never cut: one longer than `max_length` (vision and newline rows included) is skipped or refused.
    A stage that fits `CACHE_BYTES` is encoded once per process.

    Bad records and images are counted, and the first of them named in the log. They keep their places, so that length,
    order and resuming do not depend on them.

    Raises UserError for a stage without data, an unknown objective, wrong policies, or readers that do not suit the
    objective; by index for bad records, bad images and long samples where the policy is "fail", and where too little of
    the data is usable.
    """

    def __init__(self, recipe: Recipe, stage: str, processor: ProxyVProcessor):
        spec = recipe.stages[stage]
        self.stage, self.processor, self.objective = stage, processor, objective_of(spec, stage)
        self.max_length, self.image_mode, self.on_too_long = spec.max_length, spec.image_mode, spec.on_too_long
        check_sources(recipe, stage)
        check_dataclass(spec, f"stages.{stage}")
        self.readers = [open_reader(recipe, name) for name in spec.data]
        self._check_readers()
        self.ends = list(accumulate(len(reader) for reader in self.readers))
        # From sample to sample in search of a usable one. Bad ones often stand together, a folder that is missing for
        # instance: from neighbour to neighbour all of them would end at the one behind.
        self.stride = spread(len(self))
        self.seen = self.named = 0
        self.lacking = dict.fromkeys(WATCHED, 0)
        self.cache: dict[int, tuple[Encoded | None, np.ndarray]] = {}
        self.fits: bool | None = None  # whether all samples fit the cache; None until the first is encoded

    def _check_readers(self) -> None:
        """Raise UserError for a wrong field, and for readers or a processor that do not suit the objective."""
        for reader in self.readers:
            check_dataclass(reader.spec, f"data.{reader.name}")
            if reader.gives != self.objective.takes:
                fitting = (f"'{name}'" for name, kind in READERS.items() if kind.gives == self.objective.takes)
                raise UserError(
                    f"stages.{self.stage}.data: '{reader.name}' has reader '{reader.spec.reader}', "
                    f"but the stage's objective needs {' or '.join(fitting)}"
                )
        self.objective.check_processor(self.processor)

    def __len__(self) -> int:
        return self.ends[-1]

    def lengths(self) -> list[int]:
        """Words of each sample, negative for text-only ones."""
        return [length for reader in self.readers for length in reader.lengths()]

    def locate(self, index: int) -> tuple[Reader, int]:
        """The reader of a sample, and its index there."""
        place = bisect_right(self.ends, index)
        return self.readers[place], index - (self.ends[place - 1] if place else 0)

    def __getitem__(self, index: int) -> Item:
        counts = no_counts()
        for tries in range(min(PATIENCE, len(self))):
            encoded, happened = self._encoded((index + tries * self.stride) % len(self))
            counts += happened
            if encoded is not None:
                return encoded, counts
        raise UserError(
            f"stages.{self.stage}.data: no usable sample from number {index} on ({describe(counts)}); "
            "see `proxyv check-data`"
        )

    def _encoded(self, index: int) -> tuple[Encoded | None, np.ndarray]:
        """Sample `index` (None: skipped) and its counts (len(COUNTS),), from the cache where it is there."""
        if index in self.cache:
            return self.cache[index]
        happened = Outcomes()
        encoded = self.encode(*self.locate(index), happened)
        self._watch(happened)
        if self.fits is None and encoded is not None:  # the rest will be about as large as the first
            self.fits = (encoded.crops.nbytes + 2 * encoded.labels.nbytes) * len(self) <= CACHE_BYTES
        if self.fits:
            self.cache[index] = (encoded, happened.counts)
        return encoded, happened.counts

    def encode(self, reader: Reader, number: int, happened: Outcomes) -> Encoded | None:
        """One of a reader's samples under the stage's policies; None where it is skipped. What happened to it is added
        to `happened`. Raises UserError where a policy is "fail"."""
        try:
            return self._usable(reader, reader[number], happened)
        except BadRecordError as error:
            if reader.spec.on_bad_record == "fail":
                raise UserError(f"{error}; or set data.{reader.name}.on_bad_record to skip") from error
            happened.add(Outcome.BAD_RECORDS_SKIPPED, f"{error}; skipped")
            return None

    def _usable(self, reader: Reader, sample: Sample, happened: Outcomes) -> Encoded | None:
        """As `encode`, of a sample. Raises BadRecordError where it cannot be encoded."""
        where = reader.where(sample.id, sample.number)
        images = self._open(reader, sample, happened)
        if images is None:
            return None
        try:
            encoded = self.objective.encode(self.processor, sample, images, self.image_mode)
        except BadRecordError as error:
            raise BadRecordError(f"{where} {error}") from error
        if len(encoded.input_ids) > self.max_length:
            takes = f"{where} takes {len(encoded.input_ids)} tokens, more than stages.{self.stage}.max_length"
            if self.on_too_long == "fail":
                raise UserError(f"{takes} {self.max_length}; raise it, or set on_too_long to skip")
            happened.add(Outcome.TOO_LONG_SKIPPED, f"{takes} {self.max_length}; skipped")
            return None
        if not encoded.supervised:
            happened.add(Outcome.UNSUPERVISED_SKIPPED, f"{where} has no supervised token; skipped")
            return None
        if sample.marks and not sample.images:
            happened.add(Outcome.IMAGE_MARKS_AS_TEXT, f"{where} has <image> marks and no image; they are text")
        return encoded

    def _open(self, reader: Reader, sample: Sample, happened: Outcomes) -> list[Image.Image] | None:
        """The sample's images under its data set's policy; None where the sample is skipped. Raises UserError where the
        policy is "fail"."""
        images, where = [], reader.where(sample.id, sample.number)
        for source in sample.images:
            try:
                images.append(open_image(source))
            except BadImageError as error:
                if reader.spec.on_bad_image == "fail":
                    raise UserError(
                        f"{where}: {error}; fix it, or set data.{reader.name}.on_bad_image to skip or substitute"
                    ) from error
                if reader.spec.on_bad_image == "skip":
                    happened.add(Outcome.BAD_IMAGES_SKIPPED, f"{where}: {error}; skipped")
                    return None
                happened.add(Outcome.BAD_IMAGES_SUBSTITUTED, f"{where}: {error}; a blank one is taken")
                images.append(blank_image(self.processor.image_processor.crop_size))
        return images

    def _watch(self, happened: Outcomes) -> None:
        """Name what is bad in the log. Raise UserError once most of the samples seen so far had the same lack."""
        if happened.counts[list(BAD)].any() and self.named < NAMED:
            self.named += 1
            log.warning("%s%s", "; ".join(happened.reasons), "" if self.named < NAMED else " (more are only counted)")
        self.seen += 1
        for outcome, lack in WATCHED.items():
            self.lacking[outcome] += bool(happened.counts[outcome])
            if self.seen >= PROBATION and 2 * self.lacking[outcome] > self.seen:
                raise UserError(
                    f"stages.{self.stage}: {self.lacking[outcome]} of the first {self.seen} samples have {lack}"
                )

    def check_records(self) -> list[str]:
        """Look through all data sets for malformed records; what is skipped, in words.

        Every process sees the same files, so none goes on where another stops. Raises UserError for the first bad
        record of a data set that says "fail", and for more of them than `max_bad_records`.
        """
        notes = []
        for reader in self.readers:
            if not (faults := reader.faults()):
                continue
            field, share = f"data.{reader.name}", len(faults) / len(reader)
            number, reason = next(iter(faults.items()))
            first = f"{reader.where_is(number)} {reason}"
            found = f"{len(faults):,} of {len(reader):,} records are bad"
            if reader.spec.on_bad_record == "fail":
                raise UserError(f"{first}; or set {field}.on_bad_record to skip ({found}; see `proxyv check-data`)")
            if share > reader.spec.max_bad_records:
                raise UserError(f"{field}: {found}, more than max_bad_records {reader.spec.max_bad_records}; {first}")
            notes.append(f"{field}: {found} and will be skipped; the first: {first}")
        return notes

    def check_share(self, counts: Mapping[str, float], used: int) -> None:
        """Raise UserError where more samples than `max_bad_records` were bad, in record or image.

        Args:
            counts: of all processes, by the names in COUNTS; the same in each process, so that all stop together.
            used: samples that became part of a batch.
        """
        bad, seen = total(counts, BAD), used + total(counts, SKIPPED)
        limit = max(reader.spec.max_bad_records for reader in self.readers)
        if seen >= FAIR_SHARE and bad > limit * seen:
            raise UserError(
                f"stages.{self.stage}.data: {bad:,} of {seen:,} samples had a bad record or image, more than "
                f"max_bad_records {limit}; see `proxyv check-data`, mend the data or raise it"
            )


def spread(size: int) -> int:
    """A step that visits all of `size` places, each far from those before: the golden section, made coprime."""
    step = int(size * (5**0.5 - 1) / 2)
    while gcd(step, size) != 1:
        step += 1
    return step


def check_sources(recipe: Recipe, stage: str) -> None:
    """Raise UserError where a stage has no data, or some that cannot be opened; nothing is read."""
    if not recipe.stages[stage].data:
        raise UserError(f"stages.{stage}.data: names no data set; give some of the recipe's `data`")
    for name in recipe.stages[stage].data:
        check_source(recipe, name)
