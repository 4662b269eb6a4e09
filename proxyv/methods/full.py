"""Full, the control without any saving: every vision token goes through every layer.

Paper: the LLaVA-NeXT baseline with one newline token per crop, arXiv 2505.15816 section 4 ("baseline").
Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxyv.model.method import Method


@dataclass(frozen=True)
class Full(Method):
    """No saving."""

    name: ClassVar[str] = "full"
