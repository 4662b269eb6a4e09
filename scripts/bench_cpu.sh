#!/usr/bin/env bash
# Time ProxyV (as it is and folded), other methods and plain controls side by side on this CPU, an LLM of width 1024,
# into eval/results/cpu-prefill/ and eval/README.md. About six minutes on two otherwise idle cores.
#   scripts/bench_cpu.sh --repeats 9      # options of `proxyv bench` go behind
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
python -m proxyv bench configs/recipes/cpu-1024-proxyv-l4.yaml \
  '{name: light_mlp, start_layer: 4}' \
  '{name: visionzip, dominant: 360, contextual: 40}' \
  '{name: pyramiddrop, layers: [4, 7, 9]}' \
  '{name: random, tokens: 400}' \
  '{name: smaller_image, pool: 2}' \
  --compare full --fold both --device cpu --peak --warmup 1 --repeats 5 --splits 2 --new_tokens 2 \
  --output eval/results/cpu-prefill/times.json --into eval/README.md#cpu-prefill "$@"
