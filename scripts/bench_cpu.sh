#!/usr/bin/env bash
# Time a prefill of five crops on this CPU, ProxyV against the plain LLM of the same shape, as it is and folded, into
# eval/results/cpu-prefill/. About five minutes on two otherwise idle cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
recipe=configs/recipes/cpu-1024-proxyv-l4.yaml
kept=eval/results/cpu-prefill
bench() { python -m proxyv bench "$recipe" --device cpu --warmup 1 --repeats 5 --new_tokens 2 "${@:2}" --output "$kept/$1/bench.json" >/dev/null; }

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
bench unfolded --compare full
bench folded --compare full --fold
bench folded-against-unfolded --compare "$recipe" --fold
python -m proxyv profile "$recipe" --compare full --output "$kept/unfolded/profile.json" >/dev/null
python -m proxyv report "$kept" --into README.md#cpu-prefill
