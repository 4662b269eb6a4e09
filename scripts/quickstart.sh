#!/usr/bin/env bash
# The whole pipeline at tiny size: pages, training with and without ProxyV, evaluation, a table and a plot.
# Needs Python and git only. Arguments go to `proxyv quickstart` (try --help or --smoke).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
python -m proxyv quickstart "$@"
