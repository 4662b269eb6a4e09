#!/usr/bin/env bash
# Document parsing on CCpdf (BLEU, edit distance).
# scripts/eval/parsing.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" parsing "${@:2}"
