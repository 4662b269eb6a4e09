"""lmms-eval, the field's own harness, as a second engine: its tasks, prompts, parsing and scores around our answers.

tasks.py       its tasks, checked, built on local files     model.py    our model as lmms-eval calls it
files.py       the local files of a task and their images   engine.py   tasks in, result files out
generation.py  what a task may ask of the generation

`proxyv eval MODEL --engine lmms-eval` comes in through engine.py, `python -m lmms_eval --model proxyv` through
proxyv/cli/lmms_eval/. lmms-eval is imported where it is used, so that nothing else needs it.
"""
