"""Scores against costs as labelled points, one panel for each cost, written as PNG without a display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyv.report.means import MeanOverRuns

# Where a label may lie beside its point (points of type; right and left of it, above and below), best first.
_OFFSETS = [(8, 6), (8, -14), (-8, 6), (-8, -14), (0, 14), (0, -22), (8, 22), (8, -30), (-8, 22), (-8, -30)]

SCORE_SPAN = 10.0  # points that the score axis shows at the least


@dataclass(frozen=True)
class Point:
    """One recipe: its label, what it costs and what it scores."""

    label: str
    cost: MeanOverRuns
    score: MeanOverRuns


@dataclass(frozen=True)
class Panel:
    """One plot: the axes' labels with units, and the points."""

    cost_axis: str
    score_axis: str
    points: Sequence[Point]


def plot_scores(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels side by side; bars show the spread over runs. A panel without points says so."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4 * len(panels), 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(canvas)
    # One colour and marker for a recipe in all panels.
    labels = list(dict.fromkeys(point.label for panel in panels for point in panel.points))
    styles = {label: (f"C{i % 10}", "osD^vPX*<>"[i % 10]) for i, label in enumerate(labels)}
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel, styles)
    canvas.canvas.draw()  # labels can be placed only in a finished layout
    for axis, panel in zip(axes, panels, strict=True):
        _label(axis, panel.points, styles)
    canvas.savefig(path)


def _draw(axis: Any, panel: Panel, styles: dict[str, tuple[str, str]]) -> None:
    axis.set_xlabel(panel.cost_axis)
    axis.set_ylabel(panel.score_axis)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if not panel.points:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color="gray")
        axis.set_xticks([])
        axis.set_yticks([])
    for point in panel.points:
        colour, marker = styles[point.label]
        axis.errorbar(
            point.cost.mean,
            point.score.mean,
            xerr=point.cost.spread or None,
            yerr=point.score.spread or None,
            color=colour,
            marker=marker,
            markersize=7,
            capsize=3,
        )
    axis.margins(x=0.18, y=0.18)
    low, high = axis.get_ylim()
    if panel.points and high - low < SCORE_SPAN:  # a tenth of a point must not look like a gulf
        middle = (low + high) / 2
        axis.set_ylim(middle - SCORE_SPAN / 2, middle + SCORE_SPAN / 2)


def _label(axis: Any, points: Sequence[Point], styles: dict[str, tuple[str, str]]) -> None:
    """Write each label where it covers no point and no earlier label and stays inside the panel, if it can."""
    taken = [_marker_box(axis, point) for point in points]
    frame = axis.get_window_extent()
    for point in points:
        best: tuple[int, Any, Any] | None = None
        for dx, dy in _OFFSETS:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axis.annotate(
                point.label,
                (point.cost.mean, point.score.mean),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                fontsize=8.5,
                color=styles[point.label][0],
            )
            box = text.get_window_extent()
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            faults = 2 * outside + sum(box.overlaps(other) for other in taken)
            if best is None or faults < best[0]:
                if best is not None:
                    best[1].remove()
                best = (faults, text, box)
            else:
                text.remove()
        assert best is not None
        taken.append(best[2])


def _marker_box(axis: Any, point: Point) -> Any:
    """What a point's marker covers, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axis.transData.transform((point.cost.mean, point.score.mean))
    return Bbox.from_extents(x - 9, y - 9, x + 9, y + 9)
