#!/usr/bin/env bash
# OCRBench, test (a tenth of its 1,000 points).
# scripts/eval/ocrbench.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" ocrbench "${@:2}"
