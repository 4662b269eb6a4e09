#!/usr/bin/env bash
# Everything that the paper evaluates.
# scripts/eval/paper.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" paper "${@:2}"
