#!/usr/bin/env bash
# The paper's time protocol on one GPU: every experiment that has a published time, at full shapes with random weights,
# bfloat16, batch 1, 5 crops (2880 vision tokens) and 50 text tokens, side by side in one run under every attention
# back-end, with the GPU's own rate of matrix products as a yardstick. It needs about 35 GB of GPU memory for a 7B LLM.
# Result and tables go to eval/results/paper-times/<GPU>/.
#   LLM=vicuna-7b REPEATS=10 scripts/paper_times.sh       # options of `proxyv bench` go behind
# On a machine that has torch and the rest already: PROXYV_PYTHON=python3 scripts/paper_times.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
llm="${LLM:-vicuna-7b}"
names="$(python - "$llm" <<'PY'
import sys
from proxyv.report.published import published, recipe_name
for row in published()["fine"]:
    if row["llm"] == sys.argv[1] and row["time_reduction_pct"] is not None:
        print(recipe_name(row))
PY
)"
[ -n "$names" ] || _fail "LLM=$llm: the paper has no times of it (eval/published.json)"
recipes=()
for name in $names; do
  recipe="$(find configs -name "$name.yaml")"
  [ -n "$recipe" ] || _fail "configs: no recipe is called $name"
  recipes+=("$recipe")
done
gpu="$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")')"
gpu="$(printf '%s' "$gpu" | tr '[:upper:] ' '[:lower:]-')"

python -m proxyv bench "${recipes[@]}" --compare full --device cuda --dtype bfloat16 --batch_size 1 --crops 5 \
  --text_tokens 50 --new_tokens 5 --attention eager sdpa flash_attention_2 --peak --warmup 2 \
  --repeats "${REPEATS:-10}" --splits 3 --output "eval/results/paper-times/$gpu/$llm.json" "$@"
