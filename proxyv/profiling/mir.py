"""The modality integration rate (MIR, arXiv 2410.07167): how far vision and text rows lie apart inside an LLM.

Each record of a list of images and texts is run alone. Behind every decoder layer (the last: after the final norm),
vision rows are the image's vision tokens, text rows all rows behind the image, whatever the method left of them:
newlines, proxies and learned rows count to neither, nor does what stands before the image. The rate is log10 of the sum
of the layers' distances (frechet.py).

The published code takes the first 576 rows of an image as its vision rows, and what follows as text: with LLaVA-1.5's
one crop these are the same rows. Vision rows that no later row reads in the last layer stay there as they came in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from proxyv.config import DataSpec
from proxyv.data.encoding import encode_conversation
from proxyv.data.images import BadImageError, open_image
from proxyv.data.readers import LlavaReader
from proxyv.data.records import BadRecordError, Sample
from proxyv.environment import describe_model, environment
from proxyv.errors import UserError, naming
from proxyv.model.layout import Layout
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.registry import describe_method
from proxyv.model.sub_configs import position_limit
from proxyv.profiling.frechet import frechet
from proxyv.report.published import published_rate
from proxyv.results.mir import LayerGap, MirResult, Rates

PAIRS = 100  # that the published code takes
HELD_BYTES = 8 * 2**30  # of hidden states that are held at once; more take more than one pass
OTHER, VISION, TEXT = 0, 1, 2

# By layer: each pair's vision rows, and its text rows.
VisionAndText = dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]]


@dataclass(frozen=True)
class ImageText:
    """One image and its text as the model takes them. input_ids (1, L) int64, pixel_values (C, 3, S, S) float32."""

    where: str
    input_ids: torch.Tensor
    pixel_values: torch.Tensor
    crops: int
    cut: bool  # whether the text was cut at the LLM's positions


def measure_mir(
    model: ProxyVForConditionalGeneration,
    processor: ProxyVProcessor,
    pairs: str | Path,
    *,
    images: str | Path | None = None,
    limit: int = PAIRS,
    recipe: str | None = None,
    progress: bool = True,
    held_bytes: int = HELD_BYTES,
) -> MirResult:
    """The rate of a model on the first `limit` records of a list.

    Args:
        pairs: LLaVA records with one image each (JSON, JSON lines or parquet). In the published list a person's turn is
            "<image>" and a line break, and the answer a story.
        images: the folder of the records' images (default: that of the list).
        recipe: its name, recorded.
        held_bytes: hidden states to hold at once.

    Raises UserError for a missing or malformed list, a record without exactly one image, and where a layer has fewer
    than two vision or text rows.
    """
    check_pairs(pairs, limit)
    encoded = read_pairs(model, processor, Path(pairs), images, limit)
    gaps = measure_layers(model, encoded, held_bytes, progress)
    method = describe_method(model.method)
    return {
        "mir": rates(gaps),
        "layers": gaps,
        "published": published_rate(method),
        "pairs": str(pairs),
        "num_pairs": len(encoded),
        "cut_short": sum(pair.cut for pair in encoded),
        "recipe": recipe,
        "method": method,
        "model": describe_model(model),
        "environment": environment(),
    }


def check_pairs(pairs: str | Path, limit: int = PAIRS) -> None:
    """Raise UserError for what needs no model to be refused: a list that is not there, a limit of none."""
    file = Path(pairs)
    if not any(path.is_file() for path in file.parent.glob(file.name)):
        raise UserError(f"{file}: does not exist; give a list of LLaVA records (.json, .jsonl or .parquet)")
    if limit < 1:
        raise UserError(f"limit: {limit} is too small; use 1 or more")


def read_pairs(
    model: ProxyVForConditionalGeneration,
    processor: ProxyVProcessor,
    file: Path,
    images: str | Path | None = None,
    limit: int = PAIRS,
) -> list[ImageText]:
    """The first records of a list, encoded. Arguments and errors as of `measure_mir`."""
    folder = str(Path(images).absolute()) if images is not None else None
    spec = DataSpec("llava", file.name, folder, limit=limit)
    with naming(file):
        reader = LlavaReader("pairs", spec, file.parent)
        most = position_limit(model.config.text_config)
        return [_pair(processor, reader, number, most) for number in range(min(limit, len(reader)))]


def _pair(processor: ProxyVProcessor, reader: LlavaReader, number: int, most: int) -> ImageText:
    """One record, its text cut at the LLM's positions. Raises UserError for one that cannot be used."""
    where = reader.where_is(number)
    try:
        sample: Sample = reader[number]
        if len(sample.images) != 1:
            raise UserError(f"{where} has {len(sample.images)} images; give each record one")
        image = open_image(sample.images[0])
        encoded = encode_conversation(processor, sample, [image], None)
    except (BadRecordError, BadImageError) as error:
        raise UserError(f"{where}: {error}; mend it or take it out") from error
    pixels = torch.from_numpy(processor.image_processor.normalise(encoded.crops))
    ids = torch.from_numpy(encoded.input_ids)[None]
    return ImageText(where, ids[:, :most], pixels, encoded.crops_per_image[0], ids.shape[1] > most)


@torch.no_grad()
def measure_layers(
    model: ProxyVForConditionalGeneration,
    pairs: Sequence[ImageText],
    held_bytes: int = HELD_BYTES,
    progress: bool = False,
) -> list[LayerGap]:
    """The distance behind every decoder layer.

    The pairs are run as often as it takes to hold no more than `held_bytes` of hidden states, or one layer's.
    """
    layers = range(1, model.config.text_config.num_hidden_layers + 1)
    one = torch.finfo(model.dtype).bits // 8 * model.config.text_config.hidden_size
    at_once = max(1, held_bytes // (one * sum(pair.input_ids.shape[1] for pair in pairs)))
    passes = [layers[start : start + at_once] for start in range(0, len(layers), at_once)]
    gaps = []
    with tqdm(total=len(passes) * len(pairs) + len(layers), desc="mir", disable=not progress) as bar:
        for some in passes:
            rows: VisionAndText = {layer: ([], []) for layer in some}
            for pair in pairs:
                _collect(model, pair, rows)
                bar.update()
            for layer, (vision, text) in rows.items():
                gaps.append(_gap(layer, torch.cat(vision), torch.cat(text), model.device))
                bar.update()
    return gaps


def _collect(model: ProxyVForConditionalGeneration, pair: ImageText, rows: VisionAndText) -> None:
    """Run a pair, and add its vision and its text rows behind some layers."""
    with naming(pair.where):
        prompt = model.read_prompt(pair.input_ids.to(model.device), None, [pair.crops])
        inputs, states = model.prefill_states(prompt, pair.pixel_values.to(model.device, model.dtype))
    assert inputs.layout is not None
    kinds = row_kinds(inputs.layout)
    for layer, (vision, text) in rows.items():
        left = kinds if inputs.plan is None else inputs.plan.remaining(kinds, fill=OTHER, layers=layer)
        left = left.to(states[layer].device)
        vision.append(states[layer][left == VISION].cpu())
        text.append(states[layer][left == TEXT].cpu())


def row_kinds(layout: Layout) -> torch.Tensor:
    """(1, L) int64 of one sample with one image: which rows are vision tokens, and which the text behind the image."""
    behind = torch.arange(layout.length, device=layout.valid.device) > layout.last_newlines[-1]
    kinds = torch.where(layout.given & behind, TEXT, OTHER)
    return kinds.masked_fill(layout.is_vision, VISION)


def _gap(layer: int, vision: torch.Tensor, text: torch.Tensor, device: torch.device) -> LayerGap:
    if min(len(vision), len(text)) < 2:
        found = f"{len(vision)} vision rows and {len(text)} text rows"
        raise UserError(
            f"layer {layer}: has {found}, and needs two of each; give more pairs, or keep more vision tokens"
        )
    distance = frechet(vision.to(device), text.to(device))
    return {
        "layer": layer,
        "exact": distance.exact,
        "upstream_fast": distance.upstream_fast,
        "vision_rows": len(vision),
        "text_rows": len(text),
        "vision_outliers": distance.vision_outliers,
        "text_outliers": distance.text_outliers,
        "text_scale": distance.text_scale,
    }


def rates(gaps: Sequence[LayerGap]) -> Rates:
    """log10 of the sum over layers, in both modes; None where it is 0 or less."""
    exact, fast = (math.fsum(values) for values in zip(*((g["exact"], g["upstream_fast"]) for g in gaps), strict=True))
    return {
        "exact": math.log10(exact) if exact > 0 else None,
        "upstream_fast": math.log10(fast) if fast > 0 else None,
    }
