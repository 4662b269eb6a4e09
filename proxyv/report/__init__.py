"""Tables and plots, from result files only: no figure is ever typed by hand.

runs.py          result files → runs                        figures.py  one run's figures by column, how measured
score_files.py   an evaluation's results, checked           published.py  the paper's figures
columns.py       one column for one way of measuring        means.py    mean and spread over runs
tables.py        runs → one row a recipe                    plots.py    scores against costs
paper_tables.py  the paper's tables, published values beside ours
markdown.py      Markdown tables and their places in documents
latex.py         LaTeX tables
make.py          a report: tables and plot together
"""
