"""Evaluation by generation: benchmarks, metrics, results that can be resumed and scored again.

benchmarks.py  what a benchmark or suite YAML holds      prompts.py      from a row to the text that is sent
tables.py      a benchmark's local files, as one table   samples.py      its samples
answers.py     greedy answers to a batch                 sample_images.py which images go with a row
runner.py      evaluate a model on benchmarks, suites    answerer.py     a benchmark's questions put to a model
batches.py     which samples go together, how many       bookkeeping.py  found answers, what is left, the result
team.py        the processes that torchrun started       answer_files.py where answers are, in the making and after
metrics/       the scores of one answer, and of all      scoring.py      totals, suites, scoring again
rescoring.py   a folder of results scored again          comparing.py    runs against each other, by sample
paired.py      how sure a difference is                  flip_page.py    the changed answers, with pictures

    <output_dir>/<benchmark>.jsonl     one line per sample, in sample order
    <output_dir>/<benchmark>.parts/    while a run lasts: the lines of each process, as answers come
    <output_dir>/<benchmark>.json      scores and everything they were measured with
    <output_dir>/suite-<suite>.json    the suite's score and its parts

proxyv/results/scores.py says what these files hold.
"""

from proxyv.evaluation.benchmarks import Benchmark, Suite, list_names, load_benchmark, load_suite
from proxyv.evaluation.rescoring import rescore_results
from proxyv.evaluation.runner import check_suite, evaluate, evaluate_suite
from proxyv.evaluation.scoring import rescore
from proxyv.evaluation.team import together

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
    "together",
]
