"""A stage's samples, encoded, with its policies for bad images, long samples and unsupervised ones."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from proxyv.config import Recipe
from proxyv.data.encoding import Encoded
from proxyv.data.images import BadImageError, blank_image, open_image
from proxyv.data.objectives import objective_of
from proxyv.data.outcomes import Outcome, describe, no_counts
from proxyv.data.readers import READERS, Reader, Sample, check_source, open_reader
from proxyv.errors import UserError, suggest
from proxyv.model.processing import ProxyVProcessor

BAD_IMAGE_POLICIES = ("fail", "skip", "substitute")
TOO_LONG_POLICIES = ("skip", "fail")
# Once so many samples were seen, more than half without a supervised token end the run.
PROBATION = 64
# So many samples in a row without a usable one end it too.
PATIENCE = 1000
CACHE_BYTES = 512 * 2**20

Item = tuple[Encoded, np.ndarray]  # a usable sample, and the counts (len(COUNTS),) of what was skipped before it


class TrainingData(Dataset[Item]):
    """All data sets of a stage in a row. Item i is sample i, or the next usable one, with what was skipped.

    A sample is never cut: one longer than `max_length` (vision and newline rows included) is skipped or refused.
    A stage that fits `CACHE_BYTES` is encoded once per process.

    Raises UserError for a stage without data, an unknown objective, wrong policies, or readers that do not suit the
    objective; by index for bad images and long samples where the policy is "fail", and where too little of the data is
    usable.
    """

    def __init__(self, recipe: Recipe, stage: str, processor: ProxyVProcessor):
        spec = recipe.stages[stage]
        self.stage, self.processor, self.objective = stage, processor, objective_of(spec, stage)
        self.max_length, self.image_mode, self.on_too_long = spec.max_length, spec.image_mode, spec.on_too_long
        check_sources(recipe, stage)
        _check_choice(f"stages.{stage}.on_too_long", spec.on_too_long, TOO_LONG_POLICIES)
        self.readers = [open_reader(recipe, name) for name in spec.data]
        self._check_readers()
        self.ends = list(accumulate(len(reader) for reader in self.readers))
        self.seen = self.unsupervised = 0
        self.cache: dict[int, tuple[Encoded | None, np.ndarray]] = {}
        self.fits: bool | None = None  # whether all samples fit the cache; None until the first is encoded

    def _check_readers(self) -> None:
        """Raise UserError for a wrong policy, and for readers or a processor that do not suit the objective."""
        for reader in self.readers:
            _check_choice(f"data.{reader.name}.on_bad_image", reader.spec.on_bad_image, BAD_IMAGE_POLICIES)
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
        for candidate in range(index, index + min(PATIENCE, len(self))):
            encoded, happened = self._encoded(candidate % len(self))
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
        counts = no_counts()
        reader, place = self.locate(index)
        encoded = self.encode(reader, reader[place], counts)
        self._watch_supervision(bool(counts[Outcome.UNSUPERVISED_SKIPPED]))
        if self.fits is None and encoded is not None:  # the rest will be about as large as the first
            self.fits = (encoded.crops.nbytes + 2 * encoded.labels.nbytes) * len(self) <= CACHE_BYTES
        if self.fits:
            self.cache[index] = (encoded, counts)
        return encoded, counts

    def encode(self, reader: Reader, sample: Sample, counts: np.ndarray) -> Encoded | None:
        """One sample under the stage's policies; None where it is skipped, with the reason added to `counts`
        (len(COUNTS),), in place. Raises UserError where a policy is "fail"."""
        images = self._open(reader, sample, counts)
        if images is None:
            return None
        encoded = self.objective.encode(self.processor, sample, images, self.image_mode)
        if len(encoded.input_ids) > self.max_length:
            if self.on_too_long == "fail":
                raise UserError(
                    f"{reader.where(sample.id)} takes {len(encoded.input_ids)} tokens, more than "
                    f"stages.{self.stage}.max_length {self.max_length}; raise it, or set on_too_long to skip"
                )
            counts[Outcome.TOO_LONG_SKIPPED] += 1
            return None
        if not encoded.supervised:
            counts[Outcome.UNSUPERVISED_SKIPPED] += 1
            return None
        return encoded

    def _open(self, reader: Reader, sample: Sample, counts: np.ndarray) -> list[Image.Image] | None:
        """The sample's images under its data set's policy, counted in `counts` (len(COUNTS),); None where the sample is
        skipped. Raises UserError where the policy is "fail"."""
        images = []
        for source in sample.images:
            try:
                images.append(open_image(source))
            except BadImageError as error:
                if reader.spec.on_bad_image == "fail":
                    raise UserError(
                        f"{reader.where(sample.id)}: {error}; fix it, or set data.{reader.name}.on_bad_image "
                        "to skip or substitute"
                    ) from error
                if reader.spec.on_bad_image == "skip":
                    counts[Outcome.BAD_IMAGES_SKIPPED] += 1
                    return None
                counts[Outcome.BAD_IMAGES_SUBSTITUTED] += 1
                images.append(blank_image(self.processor.image_processor.crop_size))
        return images

    def _watch_supervision(self, unsupervised: bool) -> None:
        """Raise UserError once most of the samples seen so far had nothing to learn from."""
        self.seen += 1
        self.unsupervised += unsupervised
        if self.seen >= PROBATION and 2 * self.unsupervised > self.seen:
            raise UserError(
                f"stages.{self.stage}: {self.unsupervised} of the first {self.seen} samples have no supervised token; "
                "look at one with `proxyv show-sample` and fix llm.chat_template or the data"
            )


def check_sources(recipe: Recipe, stage: str) -> None:
    """Raise UserError where a stage has no data, or some that cannot be opened; nothing is read."""
    if not recipe.stages[stage].data:
        raise UserError(f"stages.{stage}.data: names no data set; give some of the recipe's `data`")
    for name in recipe.stages[stage].data:
        check_source(recipe, name)


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{field}: '{value}' is unknown{suggest(value, choices)}")
