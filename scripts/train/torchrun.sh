#!/usr/bin/env bash
# Train on one machine: scripts/train/torchrun.sh RECIPE [overrides], e.g. … --method.start_layer 16
#   NPROC   processes to start (default: the number of GPUs, or 1)
# SIGTERM and SIGUSR1 save a checkpoint and end it with code 75: start the same line again, with --resume.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
[ $# -ge 1 ] || _fail "usage: scripts/train/torchrun.sh RECIPE [overrides]"

proxyv_environment train
proxyv_launch --standalone --nproc_per_node "${NPROC:-$(proxyv_processes)}" -m proxyv train "$@"
