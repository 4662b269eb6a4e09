"""ProxyV: vision-language models that spend less computation on vision tokens.

The public names are imported on first use, so that `import proxyv` and `proxyv --help` need neither torch nor
transformers to be loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyv.model.configuration import ProxyVConfig
    from proxyv.model.modeling import ProxyVForConditionalGeneration
    from proxyv.model.processing import ProxyVProcessor

__version__ = "0.1.0"

_HOME = {
    "ProxyVConfig": "proxyv.model.configuration",
    "ProxyVForConditionalGeneration": "proxyv.model.modeling",
    "ProxyVProcessor": "proxyv.model.processing",
}

__all__ = ["ProxyVConfig", "ProxyVForConditionalGeneration", "ProxyVProcessor", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
