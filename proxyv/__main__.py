"""`python -m proxyv`: the command line, for launchers such as torchrun."""

from proxyv.cli import main

if __name__ == "__main__":
    main()
