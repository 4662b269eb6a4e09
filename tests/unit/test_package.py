"""The package as a whole: what importing it costs, what it declares, what its scripts look like."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import proxyv
from proxyv.files import CHECKOUT

PYPROJECT = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
SCRIPTS = sorted([*(CHECKOUT / "scripts").rglob("*.sh"), CHECKOUT / ".ci" / "run"])


def test_import_is_lazy() -> None:
    code = "import sys, proxyv; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    assert set(proxyv.__all__) <= set(dir(proxyv))
    for name in proxyv.__all__:
        assert getattr(proxyv, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = proxyv.no_such_name


def test_version_is_the_declared_one() -> None:
    declared = re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)
    assert declared is not None
    assert proxyv.__version__ == declared[1]


def test_licence() -> None:
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in PYPROJECT


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_not_a_dependency(name: str) -> None:
    """Neither is required by an extra nor imported, not even optionally."""
    assert f'"{name}' not in PYPROJECT
    imports = re.compile(rf"^\s*(import|from) {name}\b", re.MULTILINE)
    users = [f for f in (CHECKOUT / "proxyv").rglob("*.py") if imports.search(f.read_text(encoding="utf-8"))]
    assert users == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_script(script: Path) -> None:
    assert os.access(script, os.X_OK), f"{script} is not executable"
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_no_class_name_has_two_meanings() -> None:
    """Nor has the name of a type alias: a reader who meets it need not ask which one is meant."""
    homes: dict[str, list[str]] = {}
    for file in sorted((CHECKOUT / "proxyv").rglob("*.py")):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if name := _type_name(statement):
                homes.setdefault(name, []).append(str(file.relative_to(CHECKOUT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def _type_name(statement: ast.stmt) -> str | None:
    """The class or type alias that a statement defines: an alias is written in CapWords, constants are not."""
    if isinstance(statement, ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
        return target.id if re.match("[A-Z].*[a-z]", target.id) else None
    return None
