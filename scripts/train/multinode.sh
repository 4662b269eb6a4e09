#!/usr/bin/env bash
# Train on several machines; run the same line on each: scripts/train/multinode.sh RECIPE [overrides]
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   as torchrun names them, all required
#   NPROC   processes a machine (default: the number of GPUs, or 1)
# Runs lie on a disk that all machines share. SIGTERM and SIGUSR1 save a checkpoint and end it with code 75: start the
# same lines again, with --resume.
# With a checkout on a shared disk, make the environment once beforehand (any script does), not on all nodes at once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
[ $# -ge 1 ] || _fail "usage: scripts/train/multinode.sh RECIPE [overrides]"
for name in NNODES NODE_RANK MASTER_ADDR MASTER_PORT; do
  [ -n "${!name:-}" ] || _fail "$name is not set; needed: NNODES NODE_RANK MASTER_ADDR MASTER_PORT"
done

proxyv_environment train
proxyv_launch --nnodes "$NNODES" --node_rank "$NODE_RANK" \
  --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" --nproc_per_node "${NPROC:-$(proxyv_processes)}" -m proxyv train "$@"
