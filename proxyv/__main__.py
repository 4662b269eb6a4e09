"""`python -m proxyv` is the command line, e.g. under torchrun."""

from proxyv.cli import main

if __name__ == "__main__":
    main()
