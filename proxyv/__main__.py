"""`python -m proxyv`: the command line, for launchers such as torchrun."""

import sys

from proxyv.cli import main

if __name__ == "__main__":
    sys.exit(main())
