"""A script for torchrun: `proxyv <arguments>`."""

import sys

from proxyv.cli import main
from tests.commands import do_without_compiling

do_without_compiling()
main(sys.argv[1:])
