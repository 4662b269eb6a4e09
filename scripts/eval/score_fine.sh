#!/usr/bin/env bash
# The paper's fine-grained suite and Score_fine: DocVQA, ChartQA, InfoVQA, TextVQA, OCRBench.
# scripts/eval/score_fine.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" score_fine "${@:2}"
