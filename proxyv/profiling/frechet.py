"""How far two sets of rows lie apart: the Fréchet distance as MIR takes it, behind one layer.

Source: the modality integration rate, arXiv 2410.07167, as its published code computes it (Modality-Integration-Rate,
commit 07070b9). All rows are divided by the mean norm of the text rows. In each set, a row whose norm is more than
three standard deviations from the median norm is replaced by the median row. Then, with means μ and covariances Σ
(n − 1),

    distance = |μ_V − μ_T|² + tr Σ_V + tr Σ_T − 2 tr (Σ_V Σ_T)^½

in two modes. `exact` takes the square root; in float64 and through symmetric eigenvalues, where the published code's
accurate mode takes a general square root in float32. `upstream_fast` is what the published code's default comes to: its
five-step iteration for the root starts where it cannot move, and returns Σ_V Σ_T itself (give or take what its inverses
lose), so that the last term is 2 tr (Σ_V Σ_T). The two do not agree; published values are presumably of the latter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

OUTLIER = 3.0  # standard deviations
_CHUNK = 2**27  # numbers worked on at once


@dataclass(frozen=True)
class Distance:
    """The distance in both modes, and what went before it."""

    exact: float
    upstream_fast: float
    vision_outliers: int
    text_outliers: int
    text_scale: float


def frechet(vision: torch.Tensor, text: torch.Tensor) -> Distance:
    """The distance of vision rows (n, D) and text rows (m, D), two or more each, of any float dtype, on one device."""
    scale = _norms(text).mean()
    vision_mean, vision_covariance, vision_outliers = _moments(vision, scale)
    text_mean, text_covariance, text_outliers = _moments(text, scale)
    apart = (vision_mean - text_mean).square().sum() + vision_covariance.trace() + text_covariance.trace()
    exact = apart - 2 * _root_trace(vision_covariance, text_covariance)
    fast = apart - 2 * (vision_covariance * text_covariance).sum()
    # Rounding alone makes the exact distance of equal sets negative.
    return Distance(max(0.0, exact.item()), fast.item(), vision_outliers, text_outliers, scale.item())


def _moments(rows: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean (D,) and covariance (D, D) float64 of rows (n, D) divided by a scale, outliers replaced; and how many."""
    norms = _norms(rows) / scale
    outliers = (norms - norms.median()).abs() > OUTLIER * norms.std()
    median = _median_row(rows, scale) if bool(outliers.any()) else rows.new_zeros(rows.shape[1], dtype=torch.float32)

    def clean(start: int, end: int) -> torch.Tensor:
        scaled = rows[start:end].float() / scale
        return torch.where(outliers[start:end, None], median, scaled).double()

    spans = _spans(len(rows), rows.shape[1])
    total: torch.Tensor = sum((clean(*span).sum(0) for span in spans), rows.new_zeros((), dtype=torch.float64))
    mean = total / len(rows)
    products = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for span in spans:
        centred = clean(*span) - mean
        products.addmm_(centred.T, centred)
    return mean, products / (len(rows) - 1), int(outliers.sum())


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """(n,) float32."""
    return torch.cat([rows[start:end].float().norm(dim=1) for start, end in _spans(*rows.shape)])


def _median_row(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(D,) float32: of each dimension the median over all rows, of an even number the lower one."""
    spans = _spans(rows.shape[1], rows.shape[0])
    return torch.cat([(rows[:, start:end].float() / scale).median(dim=0).values for start, end in spans])


def _spans(count: int, width: int) -> list[tuple[int, int]]:
    """(start, end) of pieces with so many numbers that they fit into memory."""
    step = max(1, _CHUNK // width)
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _root_trace(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """tr (A B)^½ of two covariances (D, D): the eigenvalues of A B are those of the symmetric A^½ B A^½."""
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
