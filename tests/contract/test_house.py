"""How the package is laid out: imports between rooms point down, files and functions stay short."""

import ast
import os
import shutil
import statistics
import subprocess
import sys

from proxyv.files import CHECKOUT

PACKAGE = CHECKOUT / "proxyv"
TEXTS = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def check_layers(folder):
    """The layer check of scripts/test.sh on the package in `folder`: (exit code, what it prints)."""
    command = [sys.executable, "-c", LINT, "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_every_import_between_rooms_points_down():
    code, shown = check_layers(CHECKOUT)
    assert code == 0, shown


def test_an_import_that_points_up_is_found_and_both_modules_are_named(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "proxyv", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    layout = tmp_path / "proxyv" / "model" / "layout.py"
    first = "from __future__ import annotations\n"
    code = layout.read_text(encoding="utf-8")
    assert first in code
    layout.write_text(code.replace(first, first + "\nimport proxyv.methods.fastv\n", 1), encoding="utf-8")
    code, shown = check_layers(tmp_path)
    assert code != 0
    assert "proxyv.model is not allowed to import proxyv.methods" in shown, shown
    assert "proxyv.model.layout -> proxyv.methods.fastv" in shown, shown


def test_no_import_is_for_the_type_checker_alone():
    """It would hide a circle. The package's own __init__ may: it imports its public names when they are first used."""
    guarded = [name for name, text in TEXTS.items() if "TYPE_CHECKING" in text and name != "__init__.py"]
    assert not guarded


def test_files_are_short():
    lengths = {name: len(text.splitlines()) for name, text in TEXTS.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert statistics.median(lengths.values()) < 120


def test_functions_are_short():
    long = {}
    for name, text in TEXTS.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    long[f"{name}: {node.name}"] = length
    assert long == {}
