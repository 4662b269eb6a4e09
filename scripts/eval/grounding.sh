#!/usr/bin/env bash
# RefCOCO, RefCOCO+ and RefCOCOg (ACC@0.5).
# scripts/eval/grounding.sh MODEL [options of `proxyv eval`], e.g. … --data_root data; the rest as in suite.sh
PROXYV_SCRIPT="${BASH_SOURCE[0]}" exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" "${1:-}" grounding "${@:2}"
