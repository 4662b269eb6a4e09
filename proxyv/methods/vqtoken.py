"""VQToken: the vision tokens of an image become a few codes, enriched with the map of where each code is.

Paper: "VQToken: Neural Discrete Token Representation Learning for Extreme Token Reduction in Video Large Language
Models", NeurIPS 2025, arXiv 2503.16980. Source of the details: paper and public code (github.com/Hai-chao-Zhang/
VQToken), which handle video alone. Approximate: an image port, in which an image's crops take the place of frames.
Projected tokens of all crops are L2-normalised and clustered by their cosine; the codebook holds the clusters' means,
and an attention block with the codes as queries reads the index map: the paper's form, which gives one token a code.
Deviations: the public code has the roles the other way round: each frame's row of the map, its indices as numbers
through a linear map of fixed width, is a query of a decoder layer whose memory the codes are, the shorter of the two
repeated to the longer. Its released default leaves that out: it clusters with an adaptive K and gives the codes as
they are. K-means starts from the first token and then takes the one farthest from all chosen, and runs a fixed number
of rounds, so that batches, decoding and evaluation agree (published: k-means++, drawn at random); a code that loses
all its tokens stays where it was. The map's keys and values are learned embeddings of code and place in the crop (the
paper leaves the form open), and a code's own embedding joins its query, by which it finds its places. Shifts of all
keys, which the softmax cancels, are left out. Means of unit vectors are shorter than what the LLM expects: they are
scaled by the mean length of the image's projected tokens before the attention block's output is added. K is fixed,
the adaptive form is not ported. All tokens of an image are in its first crop, in the order of their clusters; its
other crops keep their newlines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from proxyv.domains import Count, Size
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import attend_plainly
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel


@dataclass(frozen=True)
class VQToken(Method):
    """`codes` vision tokens per image, whatever its number of crops."""

    name: ClassVar[str] = "vqtoken"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("reducer",)
    approximate: ClassVar[bool] = True
    keeps_grid: ClassVar[bool] = False

    codes: Count = 32
    iterations: Size = 10  # rounds of K-means
    inner_size: Count = 896  # width of the attention block: that of the published LLM
    heads: Count = 8

    def tokens_per_crop(self, tokens: int) -> int:
        return self.codes

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        if not 2 <= self.codes <= tokens:
            raise FieldError("codes", f"{self.codes} must lie between 2 and the {tokens} vision tokens of a crop")
        if self.inner_size % self.heads:
            raise FieldError("heads", f"{self.heads} does not divide method.inner_size {self.inner_size}")

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        size = model.config.text_config.hidden_size
        model.reducer = MapAttention(size, self.codes, tokens, self.inner_size, self.heads)

    def merge(self, model: ProxyVPreTrainedModel, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        layout, values = prompt.layout, vision.values
        tokens, real = by_image(values, layout.crops_of_image)
        units = F.normalize(tokens.float(), dim=-1)
        with torch.no_grad():
            ids, centres = cluster(units, real, self.codes, self.iterations)
        codes = means(units, real, ids, centres)
        length = (tokens.float().norm(dim=-1) * real).sum(1) / real.sum(1)  # (I,) of an image's tokens
        enriched = codes * length[:, None, None] + model.reducer(codes.to(values.dtype), ids, real).float()
        counts = torch.where(layout.crop_in_image == 0, self.codes, 0)
        of_crop = layout.image_of_crop.to(values.device)
        return VisionTokens(enriched.to(values.dtype)[of_crop], counts)


def by_image(values: torch.Tensor, crops_of_image: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """values (C, P, D) → those of each image (I, N, D), N the most there are of one, and (I, N) bool which are real."""
    crops = torch.tensor(crops_of_image, device=values.device)
    slot = torch.arange(max(crops_of_image), device=values.device)
    index = (crops.cumsum(0) - crops)[:, None] + slot
    real = (slot < crops[:, None]).repeat_interleave(values.shape[1], 1)
    return values[index.clamp(max=len(values) - 1)].flatten(1, 2), real


def cluster(units: torch.Tensor, real: torch.Tensor, codes: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means by cosine, the same whenever it runs.

    Args:
        units: (I, N, D) float32 unit vectors; real: (I, N) bool, False at padding.

    Returns (I, N) int64 the cluster of each vector (any at padding), and (I, codes, D) float32 the centres that chose
    it.
    """
    centres = units[:, :1]
    nearest = (units @ centres.transpose(1, 2))[..., 0].masked_fill(~real, torch.inf)
    for _ in range(codes - 1):
        farthest = nearest.argmin(1)[:, None, None].expand(-1, -1, units.shape[-1])
        centre = units.gather(1, farthest)
        centres = torch.cat([centres, centre], 1)
        nearest = torch.maximum(nearest, (units @ centre.transpose(1, 2))[..., 0])
    for _ in range(iterations):
        centres = F.normalize(means(units, real, _nearest(units, centres), centres), dim=-1)
    return _nearest(units, centres), centres


def means(units: torch.Tensor, real: torch.Tensor, ids: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(I, codes, D) float32, the mean of each cluster's vectors; where it has none, its centre. Arguments as in
    `cluster`, `ids` and `centres` as it returns them."""
    numbers = torch.arange(centres.shape[1], device=units.device)
    member = ((ids[..., None] == numbers) & real[..., None]).to(units.dtype)  # (I, N, codes)
    count = member.sum(1)[..., None]
    return torch.where(count > 0, member.transpose(1, 2) @ units / count.clamp(min=1), centres)


def _nearest(units: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return (units @ centres.transpose(1, 2)).argmax(-1)


class MapAttention(nn.Module):
    """Attention of the codes, as queries, over the map of which code is at which place."""

    def __init__(self, size: int, codes: int, tokens: int, inner_size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.code = nn.Parameter(torch.empty(codes, inner_size))
        self.place = nn.Parameter(torch.empty(tokens, inner_size))
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, inner_size)
        self.key = nn.Linear(inner_size, inner_size, bias=False)
        self.value = nn.Linear(inner_size, inner_size)
        self.out = nn.Linear(inner_size, size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings of unit scale, as torch's own."""
        nn.init.normal_(self.code)
        nn.init.normal_(self.place)

    def forward(self, codes: torch.Tensor, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """codes (I, codes, size), ids (I, N) int64 and real (I, N) bool of whole crops → (I, codes, size)."""
        crops = ids.shape[1] // len(self.place)
        index_map = self.code[ids] + self.place.repeat(crops, 1)
        query = self.query(self.norm(codes)) + self.code
        read = attend_plainly(query, self.key(index_map), self.value(index_map), self.heads, real)
        enrichment: torch.Tensor = self.out(read)
        return enrichment
