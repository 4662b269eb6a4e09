#!/usr/bin/env bash
# Style, types, layers and tests. Needs Python and git only. Arguments go to pytest, e.g. scripts/test.sh tests/unit -k layout
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment dev
cd "$PROXYV_ROOT"
python -m ruff check .
python -m ruff format --check .
python -m mypy proxyv
# The layers of the package (pyproject.toml, [tool.importlinter]). The library has no `python -m` of its own.
python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo
# One thread a worker: two workers with a thread pool each would fight over the cores. worksteal keeps neighbouring
# tests, which share fixtures, on one worker and still evens out the end.
OMP_NUM_THREADS=1 python -m pytest -n "${PROXYV_TEST_WORKERS:-2}" --dist worksteal "$@"
