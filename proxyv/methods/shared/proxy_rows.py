"""What proxy layers need for one prefill: which rows behind the prompt's are proxies, and what each row may see.

Letters beside those of `proxyv.model`: p proxies per crop, M proxy rows per sample (padded); K = L + M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from proxyv.methods.shared.text_queries import QueryRows, TextQueryPlan, query_rows, text_rows
from proxyv.model.attention import rotary_tables
from proxyv.model.layout import Layout


@dataclass(frozen=True)
class Visibility:
    """Who sees whom, beside causality; False twice is what the authors' released code does."""

    proxies_see_vision: bool
    text_sees_proxies: bool


@dataclass
class ProxyPlan(TextQueryPlan):
    """One prefill's plan; rows are those of the layout and, behind them, proxies. `splat` is filled in by the start
    layer (non-spatial proxies only)."""

    with_proxies: QueryRows  # text, newlines and proxies
    vision_rows: torch.Tensor  # (C, P) int64 flat rows while there are no proxies yet
    present: torch.Tensor | None  # (C, P) bool, which vision tokens are there; None: all
    proxy_source: torch.Tensor  # (B, M) int64 place of each proxy row in [proxies of all crops | zero row]
    proxy_places: torch.Tensor  # (C, p) int64 place of each proxy among the flat query rows (B · Q)
    splat: torch.Tensor | None = None  # (C, P, p) float
    splat_detached: bool = False  # made where no gradient is recorded

    def append(self, hidden: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
        """Put proxies (C, p, D) behind the rows (B, L, D) of their dtype: (B, K, D)."""
        pool = torch.cat([proxies.flatten(0, 1), proxies.new_zeros(1, proxies.shape[-1])])
        return torch.cat([hidden, pool[self.proxy_source]], 1)


class _Rows(NamedTuple):
    """What all rows of a batch are, tensors (B, K)."""

    position: torch.Tensor  # int64
    valid: torch.Tensor  # bool, as the next two
    is_vision: torch.Tensor
    is_proxy: torch.Tensor


def make_proxy_plan(
    layout: Layout,
    proxies_per_crop: int,
    visibility: Visibility,
    rotary: torch.nn.Module,
    back_end: str,
    like: torch.Tensor,
) -> ProxyPlan:
    """Derive the plan from the layout.

    Args:
        proxies_per_crop: p.
        rotary: the LLM's rotary embedding module.
        back_end: attention back-end, decides the form of the masks.
        like: the input embeddings (B, L, D); tensors take their device, masks and tables their dtype.
    """
    slots, rows = _place_proxies(layout, proxies_per_crop)
    samples, length, width = layout.batch_size, layout.length, rows.position.shape[1]
    sample_of_crop = layout.sample_of_crop[:, None]
    proxy_source = torch.full((samples, width - length), slots.numel(), device=slots.device)
    proxy_source[sample_of_crop, slots] = torch.arange(slots.numel(), device=slots.device).view_as(slots)

    others, others_valid = text_rows(layout)
    proxy_index = torch.arange(length, width, device=slots.device).expand(samples, -1)
    queries = torch.cat([others, proxy_index], 1)
    queries_valid = torch.cat([others_valid, rows.valid[:, length:]], 1)
    tables = rotary_tables(rotary, like, rows.position)

    def query_rows_of(index: torch.Tensor, valid: torch.Tensor, keys: int) -> QueryRows:
        return query_rows(layout, index, valid, _visible(rows, visibility, index, keys), tables, back_end, like)

    return ProxyPlan(
        length=length,
        # No proxies where nobody would see them.
        text=query_rows_of(others, others_valid, width if visibility.text_sees_proxies else length),
        with_proxies=query_rows_of(queries, queries_valid, width),
        cos=tables[0],
        sin=tables[1],
        vision_rows=layout.vision_rows.to(like.device),
        present=None if layout.present is None else layout.present.to(like.device),
        proxy_source=proxy_source.to(like.device),
        proxy_places=(sample_of_crop * queries.shape[1] + others.shape[1] + slots).to(like.device),
    )


def _place_proxies(layout: Layout, proxies_per_crop: int) -> tuple[torch.Tensor, _Rows]:
    """Slots (C, p) int64 of the proxies behind their sample's rows, and what all K rows are.

    Proxies of an image take consecutive positions over all its crops, from the image's first position on
    (arXiv 2505.15816, public code). Where a method has left fewer rows than that, the rest share the last one:
    beyond it they would see the text behind the image."""
    device = layout.vision_rows.device
    sample = layout.sample_of_crop
    crop_in_sample = torch.arange(len(sample), device=device) - torch.searchsorted(sample, sample)
    step = torch.arange(proxies_per_crop, device=device)
    slots = crop_in_sample[:, None] * proxies_per_crop + step
    count = int(slots.max()) + 1
    position = torch.zeros(layout.batch_size, count, dtype=torch.long, device=device)
    valid = torch.zeros_like(position, dtype=torch.bool)
    within_image = layout.crop_in_image[:, None] * proxies_per_crop + step
    within_image = within_image.minimum(layout.rows_of_image[layout.image_of_crop, None] - 1)
    position[sample[:, None], slots] = layout.start_of_image[:, None] + within_image
    valid[sample[:, None], slots] = True
    nothing = torch.zeros_like(valid)
    return slots, _Rows(
        torch.cat([layout.position_ids, position], 1),
        torch.cat([layout.valid, valid], 1),
        torch.cat([layout.is_vision, nothing], 1),
        torch.cat([torch.zeros_like(layout.valid), ~nothing], 1),
    )


def _visible(rows: _Rows, visibility: Visibility, index: torch.Tensor, keys: int) -> torch.Tensor:
    """What the query rows `index` (B, Q) may see of the first `keys` rows: (B, Q, keys) bool, causal by position but
    for what `visibility` denies."""
    before = rows.position[:, None, :keys] <= rows.position.gather(1, index)[:, :, None]
    is_proxy = rows.is_proxy.gather(1, index)[:, :, None]
    denied_proxies = rows.is_vision[:, None, :keys] & (not visibility.proxies_see_vision)
    denied_others = rows.is_proxy[:, None, :keys] & (not visibility.text_sees_proxies)
    return before & rows.valid[:, None, :keys] & ~torch.where(is_proxy, denied_proxies, denied_others)
