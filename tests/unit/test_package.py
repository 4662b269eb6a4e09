"""The package as a whole: what importing it costs, what it declares, what its scripts look like."""

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
