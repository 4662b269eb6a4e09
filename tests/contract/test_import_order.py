"""The package can be imported from any of its rooms first, and every method is found from there."""

import subprocess
import sys

from proxyv.methods import method_classes

# Rooms above and below the methods, and methods that other methods, or the pieces they share, are made of.
FIRST = (
    *("proxyv.profiling", "proxyv.convert", "proxyv.model.registry"),
    *("proxyv.methods.fastv", "proxyv.methods.combination", "proxyv.methods.shared.text_queries"),
)
# What takes long is imported once; each child then imports proxyv anew, one module before all others.
CODE = """
import importlib, os, sys
import datasets, transformers.modeling_utils
import transformers.models.llama.modeling_llama, transformers.models.clip.modeling_clip

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


def test_every_method_is_found_from_any_import_order():
    command = [sys.executable, "-c", CODE, ",".join(sorted(method_classes())), *FIRST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
