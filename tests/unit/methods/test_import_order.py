"""Every method is found, whichever module of the package is imported first."""

import pkgutil
import subprocess
import sys

import pytest

from proxyv import methods
from proxyv.methods import method_classes

FIRST = [module.name for module in pkgutil.walk_packages(methods.__path__, "proxyv.methods.")]
# What takes long is imported once; each child then imports proxyv anew, one module before all others.
CODE = """
import importlib, os, sys
import transformers.modeling_utils, transformers.models.llama.modeling_llama, transformers.models.clip.modeling_clip

wanted, *modules = sys.argv[1:]
for module in modules:
    if not os.fork():
        assert "proxyv" not in sys.modules
        importlib.import_module(module)
        found = importlib.import_module("proxyv.methods").method_classes()
        assert ",".join(sorted(found)) == wanted, sorted(found)
        os._exit(0)  # without tearing down what the parent still has
    if os.wait()[1]:
        sys.exit("first imported: " + module)
"""


@pytest.mark.slow
def test_every_method_is_found_from_any_import_order():
    command = [sys.executable, "-c", CODE, ",".join(sorted(method_classes()))]
    done = subprocess.run([*command, *FIRST, "proxyv.model"], capture_output=True, text=True, timeout=300)
    assert len(FIRST) > len(method_classes()) and done.returncode == 0, done.stderr[-3000:]
