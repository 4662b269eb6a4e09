"""Evaluation by generation: benchmarks, metrics, results that can be resumed and scored again.

benchmarks.py  what a benchmark or suite YAML holds      samples.py     its data, from local files
metrics.py     the scores of one answer                  generation.py  greedy answers, in batches
runner.py      evaluate a model, resume                  scoring.py     means, suites, scoring again
results.py     how results lie on disk                   vqa_answers.py the form VQA accuracy compares
"""
