#!/usr/bin/env bash
# Evaluate a model on a suite: scripts/eval/suite.sh MODEL [SUITE] [options of `proxyv eval`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
[ $# -ge 1 ] || _fail "usage: scripts/eval/suite.sh MODEL [SUITE] [options]"

model="$1" suite="${2:-synthetic}"
shift $(($# > 1 ? 2 : 1))
proxyv_environment ''
python -m proxyv eval "$model" --suite "$suite" "$@"
