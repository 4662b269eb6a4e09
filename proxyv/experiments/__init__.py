"""Recipes run and put into tables.

quickstart.py     `proxyv quickstart`: the tiny recipe with and without ProxyV, from pages to a report
sweep.py          many recipes over several seeds: what is done in which order, resumed, and where a recipe fails
sweep_results.py  the files of a sweep's folder → sweep.json → table and plot
shared_stages.py  stages that do not depend on the method, trained once for all recipes
paper_flops.py    the FLOPs reductions that the paper publishes, beside our own counts
method_costs.py   what every method costs at its published defaults
"""
