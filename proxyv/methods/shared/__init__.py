"""What several methods are made of.

before_llm.py     reducing vision tokens before the LLM: windows, budgets, what a method asks of the tower
text_queries.py   layers in which text and newlines are queries and vision tokens are keys and values only
proxy_rows.py     proxies behind the rows: where they stand and what each may see
row_subset.py     which rows are left, and how tokens are ranked by the attention that text gives them
subset_layer.py   layers that work on a subset of the rows
dropping.py       vision tokens that leave between layers
"""
