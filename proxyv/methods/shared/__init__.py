"""What several methods are made of.

before_llm.py     reducing vision tokens before the LLM: windows, budgets, what a method needs of the tower
text_queries.py   layers in which text and newlines are queries, and vision tokens are keys and values only
guided_update.py  the module by which proxies update vision tokens
proxy_rows.py     proxies behind the rows: where they are, and what each may see
row_subset.py     which rows are left, and how vision tokens are ranked by the attention that text gives them
subset_layer.py   layers that work on a subset of the rows: their mask, their positions, their cache
dropping.py       vision tokens that leave between layers
"""
