"""The metrics. Each is one function from one answer to named scores between 0 and 1:

    metric(prediction, references, row) -> {score name: score}

`prediction` is the model's text, `references` are the accepted answers, `row` holds what else the benchmark keeps of a
sample. A benchmark's score is the mean over its samples, or what the metric's `total` makes of them: F1, pairs,
circular copies, means over categories. All scores are better when higher, except `edit_distance` and shares of answers.

Definitions are those of lmms-eval 0.7.3, score for score (tests/contract/test_lmms_eval_equality.py). Where the
benchmark's own code says otherwise, that is a metric too, named `…_official`; `main` in the benchmark's file says which
one tables show.

    text.py numbers.py      strings, and numbers in them       vqa.py       VQA accuracy and its normal form
    parsing.py              transcribed pages                  boxes.py     grounding
    letters.py choices.py   letters of options                 circular.py  MMBench
    mmmu.py                 MMMU: letters and open answers     yes_no.py    POPE, MME

A metric is added by writing one function decorated with `@metric()` in a file of this folder; benchmarks find it by
name.
"""

import importlib
import pkgutil

from proxyv.errors import UserError, suggest
from proxyv.evaluation.metrics.metric import METRICS, Metric

# Raised whenever a definition changes a score; recorded with every result.
# 2: equal to lmms-eval 0.7.3 also for letters whose upper case is longer (ANLS), blanks around a gold, "nan" and "inf"
#    (relaxed_accuracy), empty golds and full-width letters (containment), blanks before commas (grounding), and more
#    than 32 full stops (vqa_accuracy).
METRICS_VERSION = "2"

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METRICS", "METRICS_VERSION", "Metric", "get_metric"]


def get_metric(name: str) -> Metric:
    """The metric of that name. Raises UserError, with the nearest known name, for an unknown one."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'{suggest(name, METRICS)}")
    return METRICS[name]
