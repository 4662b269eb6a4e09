"""Time and peak memory of many models at many settings, measured side by side with a baseline in one process.

- run.py: what a user calls, and its settings; contestants.py: recipes from words, and the baseline
- models.py: models that share their weights; cells.py: all models at all settings, in turn
- timing.py: one timed pass; device.py: what the device is, and its matrix rate
- result.py: the result file, and ratios from it; table.py: its tables
"""

from proxyv.profiling.bench.contestants import read_recipes
from proxyv.profiling.bench.result import median_and_iqr, paired_ratio, read_result
from proxyv.profiling.bench.run import bench_recipe, bench_recipes
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
