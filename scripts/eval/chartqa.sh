#!/usr/bin/env bash
# ChartQA, test (relaxed accuracy; human and augmented questions apart too).
# scripts/eval/chartqa.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" chartqa "${@:2}"
