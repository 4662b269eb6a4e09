"""One training sample as the model sees it, for `proxyv show-sample`."""

from __future__ import annotations

from dataclasses import replace

from proxyv.config import Recipe, StageSpec
from proxyv.data.outcomes import Outcomes
from proxyv.data.training_data import TrainingData
from proxyv.errors import UserError
from proxyv.model.build import build_processor
from proxyv.pages.ensure import ensure_pages


def show_sample(recipe: Recipe, data_name: str | None = None, index: int = 0) -> str:
    """Sample `index` of one of the recipe's data sets (default: the first), as text.

    Rendered prompt, crops, and tokens: supervised ones stand in ⟦ ⟧, rows of images are counted. Settings are
    those of the first stage that uses the data set. Raises UserError for an unknown name or index, or a sample that
    cannot be used.
    """
    if not recipe.data:
        raise UserError("data: the recipe has no data; add a data set")
    name = data_name or next(iter(recipe.data))
    ensure_pages(recipe)
    processor = build_processor(recipe)
    data = TrainingData(_only(recipe, name), "sample", processor)
    reader = data.readers[0]
    if not 0 <= index < len(reader):
        raise UserError(f"index: {index} is no sample of '{name}'; use 0 to {len(reader) - 1}")
    sample, happened = reader[index], Outcomes()
    encoded = data.encode(reader, index, happened)
    lines = [f"{name} {index} of {len(reader)}: {reader.where(sample.id, index)}"]
    lines += [
        f"image: {len(source)} bytes" if isinstance(source, bytes) else f"image: {source}" for source in sample.images
    ]
    if encoded is None:
        return "\n".join([*lines, *(f"not usable: {reason}" for reason in happened.reasons)])
    lines += [f"note: {reason}" for reason in happened.reasons]
    lines.append(f"crops: {list(encoded.crops_per_image)}")
    return "\n".join([*lines, *data.objective.show(processor, sample, encoded)])


def _only(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one stage "sample" that reads one data set, with the settings of the stage that uses it."""
    using = next((spec for spec in recipe.stages.values() if name in spec.data), StageSpec())
    return replace(recipe, stages={"sample": replace(using, data=[name])})
