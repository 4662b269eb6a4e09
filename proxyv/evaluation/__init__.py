"""Evaluation by generation: benchmarks, metrics, results that can be resumed and scored again.

benchmarks.py  what a benchmark or suite YAML holds      samples.py     its data, from local files
metrics.py     the scores of one answer                  generation.py  greedy answers, in batches
runner.py      evaluate a model, resume                  scoring.py     means, suites, scoring again
vqa_answers.py the form VQA accuracy compares            plots.py       scores against costs

    <output_dir>/<benchmark>.jsonl     one line per sample, appended as answers come
    <output_dir>/<benchmark>.json      scores and everything they were measured with
    <output_dir>/suite-<suite>.json    the suite's score and its parts

The public names are imported on first use: reading results needs neither torch nor datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyv.evaluation.benchmarks import Benchmark, Suite, list_names, load_benchmark, load_suite
    from proxyv.evaluation.runner import evaluate, evaluate_suite
    from proxyv.evaluation.scoring import rescore

_HOME = {
    "Benchmark": "benchmarks",
    "Suite": "benchmarks",
    "list_names": "benchmarks",
    "load_benchmark": "benchmarks",
    "load_suite": "benchmarks",
    "evaluate": "runner",
    "evaluate_suite": "runner",
    "rescore": "scoring",
}

__all__ = [
    "Benchmark",
    "Suite",
    "evaluate",
    "evaluate_suite",
    "list_names",
    "load_benchmark",
    "load_suite",
    "rescore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
