"""Precisions by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from proxyv.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_dtype(name: str, also: Iterable[str] = ()) -> torch.dtype:
    """The precision called `name`. Raises UserError for an unknown name, listing the known ones and those in `also`."""
    if name not in DTYPES:
        raise UserError(f"dtype: '{name}' is unknown; use {', '.join([*also, *DTYPES])}")
    return DTYPES[name]
