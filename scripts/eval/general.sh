#!/usr/bin/env bash
# The paper's general benchmarks: MMBench, SEED-Bench, MMStar, GQA, MME, MMMU, POPE and others.
# scripts/eval/general.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" general "${@:2}"
