"""The command line: `proxyv <command>`.

main.py       reads the command line, runs the command, turns wrong input into one line and exit code 2
commands/     one file a command: its help, its options, what it runs
options.py    options that several commands share, and how options reach a function
printing.py   figures as JSON or as lines
doctor.py     what `proxyv doctor` checks
"""

from proxyv.cli.main import main

__all__ = ["main"]
