#!/usr/bin/env bash
# What can only be checked on an NVIDIA GPU: the tests marked gpu, and a full-size recipe's times (random weights).
# On a machine that has torch and the rest already: PROXYV_PYTHON=python3 scripts/gpu_checks.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment dev
cd "$PROXYV_ROOT"
python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)' ||
  _fail "torch sees no CUDA device (torch $(_torch_version)); check nvidia-smi and that torch is a CUDA build"

python -m pytest -m gpu -ra tests "$@"

recipe="${RECIPE:-configs/recipes/vicuna-7b-proxyv-l12.yaml}"
python -m proxyv bench "$recipe" --compare full --device cuda --dtype bfloat16 \
  --output "eval/results/bench-$(basename "$recipe" .yaml)-cuda.json"
