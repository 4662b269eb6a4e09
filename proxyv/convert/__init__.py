"""Reading other projects' checkpoints into ours."""

from proxyv.convert.authors import convert_authors, load_authors

__all__ = ["convert_authors", "load_authors"]
