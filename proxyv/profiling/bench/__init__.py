"""Time and peak memory of many models at many settings, measured side by side with a baseline in one process.

- run.py: many recipes at many settings; flat.py: one recipe at one setting; checks.py: what cannot be measured
- contestants.py: recipes from words, and the baseline; models.py: models that share their weights
- cells.py: all models at all settings, in turn; timing.py: one timed pass
- device.py: what the device is, and its matrix rate
- result.py: from times to figures and ratios; table.py, notes.py: tables of a result and what they mean
"""

from proxyv.profiling.bench.contestants import read_recipes
from proxyv.profiling.bench.flat import bench_recipe
from proxyv.profiling.bench.result import median_and_iqr, paired_ratio, read_result
from proxyv.profiling.bench.run import bench_recipes
from proxyv.profiling.bench.table import bench_tables

__all__ = [
    "bench_recipe",
    "bench_recipes",
    "bench_tables",
    "median_and_iqr",
    "paired_ratio",
    "read_recipes",
    "read_result",
]
