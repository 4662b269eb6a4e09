"""Many recipes over several seeds: trained, evaluated and counted, put into one table.

run.py      `sweep`: what is done in which order, resumed, and what happens where a recipe fails
shared.py   stages that do not depend on the method, trained once for all recipes; the quickstart uses it too
results.py  the files of a sweep's folder → sweep.json → table and plot
"""

from proxyv.sweep.results import failures, sweep_table
from proxyv.sweep.run import sweep

__all__ = ["failures", "sweep", "sweep_table"]
