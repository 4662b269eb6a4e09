"""scripts/eval: each file evaluates what it is named after, in as many processes as asked for."""

import os
import subprocess

import pytest

from proxyv.evaluation import load_suite
from proxyv.files import CHECKOUT

SCRIPTS = sorted((CHECKOUT / "scripts" / "eval").glob("*.sh"))
BENCHMARKS = {"docvqa": "docvqa_val", "suite": "synthetic"}  # what scripts of another name evaluate
SHOW = """#!/bin/sh
if [ "$1" = -c ]; then echo 1; else echo "$*"; fi
"""


def started(script, folder, *arguments, **environment):
    """(exit code, the commands that a script starts, what it says)."""
    python = folder / "python"
    python.write_text(SHOW)
    python.chmod(0o755)
    environment = {**os.environ, "PROXYV_PYTHON": str(python), **environment}
    done = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_evaluates_what_it_is_named_after(script, tmp_path):
    suite = BENCHMARKS.get(script.stem, script.stem)
    assert load_suite(suite).name == suite
    options = [suite] if script.stem == "suite" else []
    options += ["--data_root", "my data"]
    command = f"-m proxyv eval runs/x --suite {suite} --data_root my data"
    assert started(script, tmp_path, "runs/x", *options) == (0, command, "")
    launched = f"-m torch.distributed.run --standalone --nproc_per_node 2 {command}"
    assert started(script, tmp_path, "runs/x", *options, NPROC="2") == (0, launched, "")
    code, _, said = started(script, tmp_path)
    assert (code, said) == (2, f"proxyv: usage: {script.name} MODEL [options of proxyv eval]")


def test_the_first_three_and_every_suite_of_the_paper_have_one():
    names = {script.stem for script in SCRIPTS}
    assert {"docvqa", "chartqa", "ocrbench", "score_fine", "grounding", "general", "parsing", "paper"} <= names
