"""Tables and plots, from result files only: no figure is ever typed by hand.

runs.py       result files → runs: scores and costs by column     published.py  the paper's figures
tables.py     runs → one row a recipe                             figures.py    mean and spread
markdown.py   Markdown tables and their places in documents       plots.py      scores against costs
make.py       a report: table, CSV and plot together
"""
