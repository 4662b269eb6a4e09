"""The recipe's synthetic pages, rendered before they are first needed."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxyv.config import Recipe
from proxyv.pages import write_pages
from proxyv.pages.writer import META


def ensure_pages(recipe: Recipe) -> dict[str, Any] | None:
    """Write the recipe's pages into its `data_root`, or reuse them; None for a recipe without pages.

    Among the processes of one machine the first writes and the others wait. Returns what meta.json holds. Raises
    UserError where `data_root` holds other pages.
    """
    if recipe.pages is None:
        return None
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        while not (Path(recipe.data_root) / META).is_file():  # the folder appears at once, when it is complete
            time.sleep(0.2)
    return write_pages(recipe.data_root, **asdict(recipe.pages))
