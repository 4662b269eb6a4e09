"""Whether the hub can be reached at all."""

from __future__ import annotations

from functools import cache
from urllib.error import HTTPError
from urllib.request import Request, urlopen

_PATIENCE = 10  # seconds that the hub may take to answer at all


@cache
def hub_answers(endpoint: str) -> bool:
    """Whether a hub can be reached, asked once: the libraries try again for a minute with every file."""
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=_PATIENCE).close()  # through the proxies of the environment
    except HTTPError:
        return True
    except OSError:
        return False
    return True
