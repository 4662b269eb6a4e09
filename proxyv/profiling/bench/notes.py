"""What a reader must know to read the tables of a timing run, and how its figures are written."""

from __future__ import annotations

from collections.abc import Mapping

from proxyv.model.method import NEEDS
from proxyv.results.bench import BenchResult, MedianAndIqr


def notes_on_run(result: BenchResult, fixed: Mapping[str, object], base: str | None, published: bool) -> list[str]:
    """Notes on where and how a run was timed and what the columns mean.

    Args:
        fixed: the settings that all cells share, by column.
        base: the model that ratios are to; None: there are no ratios.
        published: whether the tables show a figure of the paper.
    """
    notes = [
        _where(result),
        _how(result, fixed),
        f"Tower to other: parts of a prefill that waits for the device between them, from "
        f"{result['settings']['splits']} rounds; selection is what the method does before the LLM and to rank inside "
        "it. Peak MB: one model's weights and what its prefill holds.",
        "Prompt tokens are those of the prompt, whatever a method drops. TFLOP/s: counted work of the prefill, causal "
        "attention as full, by its time.",
    ]
    if base is not None:
        notes.append(f"× {base}: median of the ratios round by round, with its 95 % bootstrap interval.")
    if result["matrix_rate"] is not None:
        notes.append(
            f"Matrix rate: {median_text(result['matrix_rate'])} TFLOP/s of plain {result['settings']['dtype']} "
            "products, measured in every round."
        )
    notes += [f"{mark}: {', '.join(labels)}." for mark, labels in _marks(result).items()]
    if published:
        notes.append("Published: arXiv 2505.15816, eager attention on one H100, its tables' time reduction.")
    return notes


def _where(result: BenchResult) -> str:
    device = result["device"]
    on = [f"{name} {value}" for name, value in device.items() if value is not None and name != "name"]
    versions = [f"{name} {version}" for name, version in result["versions"].items() if version is not None]
    return (
        f"Run {result['run']}, {result['time']}, commit {result['git_commit']}: {device['name']} ({', '.join(on)}); "
        f"{', '.join(versions)}."
    )


def _how(result: BenchResult, fixed: Mapping[str, object]) -> str:
    settings = result["settings"]
    shared = [f"{name} {value}" for name, value in fixed.items()]
    about = [*shared, f"{settings['text_tokens']} text tokens", settings["dtype"], f"{settings['weights']} weights"]
    return (
        f"{', '.join(about)}, {settings['new_tokens']} new tokens. {settings['repeats']} rounds of all models in turn, "
        f"{settings['warmup']} more before to warm up; medians, in brackets the width between quartiles."
    )


def _marks(result: BenchResult) -> dict[str, list[str]]:
    """What some of the models need beyond features, and which are rebuilt from little, each with their labels."""
    marks: dict[str, list[str]] = {}
    for label, about in result["models"].items():
        needs = [f"Need {NEEDS[need]}" for need in about["needs"]]
        for mark in [*needs, *(["Approximate, since no code is public"] if about["approximate"] else [])]:
            marks.setdefault(mark, []).append(label)
    return marks


def median_text(figure: MedianAndIqr) -> str:
    """ "12.3 (0.4)": the median and, in brackets, the width between the quartiles."""
    return f"{significant(figure['median'])} ({significant(figure['iqr'])})"


def significant(value: float) -> str:
    """Three digits, or as many as there are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
