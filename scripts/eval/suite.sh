#!/usr/bin/env bash
# Evaluate a model: scripts/eval/suite.sh MODEL [SUITE] [options of `proxyv eval`], e.g. … --data_root data --batch_size 8
#   MODEL   a run folder, or one with a model in it
#   SUITE   a suite of eval/suites, or one benchmark of eval/benchmarks (default: synthetic)
#   NPROC   processes to start (default: the number of GPUs, or 1); more than one share the samples
# Start the same line again with --resume to go on where it was ended.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
[ -n "${1:-}" ] || _fail "usage: $(basename "${PROXYV_SCRIPT:-suite.sh}") MODEL [options of proxyv eval]"

model="$1" suite="${2:-synthetic}"
shift $(($# > 1 ? 2 : 1))
proxyv_environment ''
processes="${NPROC:-$(proxyv_processes)}"
if [ "$processes" -gt 1 ]; then
  proxyv_launch --standalone --nproc_per_node "$processes" -m proxyv eval "$model" --suite "$suite" "$@"
fi
python -m proxyv eval "$model" --suite "$suite" "$@"
