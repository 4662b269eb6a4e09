#!/usr/bin/env bash
# What can only be checked on an NVIDIA GPU: the tests marked gpu, and the paper's time protocol (paper_times.sh).
#   scripts/gpu_checks.sh -k full_size    # options of pytest go behind; REPEATS and LLM as in paper_times.sh
# On a machine that has torch and the rest already: PROXYV_PYTHON=python3 scripts/gpu_checks.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment dev
cd "$PROXYV_ROOT"
python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)' ||
  _fail "torch sees no CUDA device (torch $(_torch_version)); check nvidia-smi and that torch is a CUDA build"

python -m pytest -m gpu -ra tests "$@"
scripts/paper_times.sh
