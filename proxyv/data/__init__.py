"""From files to batches. In the order of the flow:

readers.py        files of one data set → samples (texts and where the pictures lie)
images.py         opening pictures that may be missing or broken
encoding.py       one sample → token ids, labels, crops
training_data.py  a stage's samples with its policies for bad, long or unsupervised ones
collate.py        samples → left-padded batches
order.py          which sample comes when
checks.py show.py what `proxyv check-data` and `proxyv show-sample` print
pages.py synthetic/   rendered pages, in the same file formats as real data
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyv.data.checks import check_data
    from proxyv.data.pages import ensure_pages
    from proxyv.data.show import show_sample

# Imported on first use: the model's own code needs the vocabulary of the synthetic pages below this package.
_HOME = {
    "check_data": "proxyv.data.checks",
    "ensure_pages": "proxyv.data.pages",
    "show_sample": "proxyv.data.show",
}

__all__ = ["check_data", "ensure_pages", "show_sample"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
