"""The package can be imported from any of its rooms first, and every method is found from there."""

from proxyv.files import CHECKOUT
from proxyv.methods import method_classes
from tests.warm import python

# Rooms above and below the methods, and methods that other methods, or the pieces they share, are made of.
FIRST = (
    *("proxyv.profiling", "proxyv.convert", "proxyv.model.registry"),
    *("proxyv.methods.fastv", "proxyv.methods.combination", "proxyv.methods.shared.text_queries"),
)
# Each child imports proxyv anew, one module before all others.
CODE = """
import importlib, os, sys

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
    done = python("-c", CODE, ",".join(sorted(method_classes())), *FIRST, folder=CHECKOUT)
    assert done.returncode == 0, done.stderr[-3000:]
