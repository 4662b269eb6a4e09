"""The methods, one file each; what several of them are made of lies in shared/.

Letters in the shapes of tensors are those of `proxyv.model`; a file names those that it adds.

Files of folders that the environment variable PROXYV_METHODS names (separated as in PATH) belong to this package as
well: a method can live outside it. They are imported, so name only folders whose code you trust.
"""

import os

from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.registry import describe_method, make_method, method_classes

__all__ = ["Method", "Prompt", "VisionTokens", "describe_method", "make_method", "method_classes"]

FOLDERS = [folder for folder in os.environ.get("PROXYV_METHODS", "").split(os.pathsep) if folder]
__path__.extend(FOLDERS)
