"""Evaluation by generation: benchmarks, metrics, results that can be resumed and scored again.

benchmarks.py  what a benchmark or suite YAML holds      samples.py     a benchmark's data, from local files
metrics.py     the scores of one answer                  answers.py     greedy answers, in batches
runner.py      evaluate a model, resume                  scoring.py     means, suites, scoring again
vqa_answers.py the form VQA accuracy compares            rescoring.py   a folder of results scored again
comparing.py   runs against each other, sample by sample  paired.py      how sure a difference is
flip_page.py   the answers that changed, with pictures

    <output_dir>/<benchmark>.jsonl     one line per sample, appended as answers come
    <output_dir>/<benchmark>.json      scores and everything they were measured with
    <output_dir>/suite-<suite>.json    the suite's score and its parts

proxyv/results/scores.py says what these files hold.
"""

from proxyv.evaluation.benchmarks import Benchmark, Suite, list_names, load_benchmark, load_suite
from proxyv.evaluation.rescoring import rescore_results
from proxyv.evaluation.runner import check_suite, evaluate, evaluate_suite
from proxyv.evaluation.scoring import rescore

__all__ = [
    "Benchmark",
    "Suite",
    "check_suite",
    "evaluate",
    "evaluate_suite",
    "list_names",
    "load_benchmark",
    "load_suite",
    "rescore",
    "rescore_results",
]
