#!/usr/bin/env bash
# Keep a finished quickstart's results in the repository, and update the README's table and plot from them.
# Usage: scripts/keep_quickstart.sh [RUNS]    (default: runs/quickstart)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
runs="${1:-runs/quickstart}"
kept=eval/results/quickstart
for run in "$runs"/tiny-full "$runs"/tiny-proxyv-l2; do
  folder="$kept/$(basename "$run")"
  mkdir -p "$folder/eval"
  cp "$run"/{recipe.yaml,profile.json,bench.json} "$folder/"
  cp "$run"/eval/*.json "$folder/eval/"
done
python -m proxyv report "$kept" --output "$kept/report"
python -m proxyv report "$kept" --into README.md#quickstart
