"""Tables and plots, from result files only: no figure is ever typed by hand.

runs.py       result files → runs: scores and costs by column     published.py  the paper's figures
tables.py     runs → one row a recipe                             means.py      mean and spread over runs
markdown.py   Markdown tables and their places in documents       plots.py      scores against costs
make.py       a report: table, CSV and plot together
"""
