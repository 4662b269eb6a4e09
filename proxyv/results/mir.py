"""What `proxyv mir` says: the modality integration rate of a model on a list of images and texts."""

from __future__ import annotations

from typing import Any, TypedDict

from proxyv.results.origin import EnvironmentRecord, ModelRecord


class Rates(TypedDict):
    """A figure in both modes. In the whole's rate, None where the layers' distances add up to 0 or less."""

    exact: float | None  # with the matrix square root of the definition
    upstream_fast: float | None  # as the published code's default computes it, see proxyv/profiling/frechet.py


class LayerGap(TypedDict):
    """The distance of vision and text rows behind one decoder layer; behind the last one, after the final norm."""

    layer: int  # from 1
    exact: float
    upstream_fast: float
    vision_rows: int
    text_rows: int
    vision_outliers: int  # rows that took the median's place
    text_outliers: int
    text_scale: float  # mean norm of the text rows, by which all rows were divided


class PublishedRate(TypedDict):
    """The paper's figure for a model of this kind."""

    value: float
    setting: str


class MirResult(TypedDict):
    """The rate, log10 of the sum over layers, and what it was measured on."""

    mir: Rates
    layers: list[LayerGap]
    published: PublishedRate | None
    pairs: str  # the list's file
    num_pairs: int
    cut_short: int  # pairs whose text was cut at the LLM's positions
    recipe: str | None
    method: dict[str, Any]
    model: ModelRecord
    environment: EnvironmentRecord
