#!/usr/bin/env bash
# The tiny recipe under many methods side by side, from the same shared stages and with equal steps: first all tasks on
# mixed pages, then locating words, which takes pages of its own to learn at this size. Figures and plots go to
# eval/results/synthetic/ and eval/results/location/, tables into eval/README.md. About 50 minutes a seed on one core;
# started again, it goes on where it stopped.
#   SEEDS="0 1 2" scripts/compare_synthetic.sh [RUNS]    (default: runs)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
runs="${1:-runs}"
methods=(full proxyv-l2 proxyv_ns-l2 light_mlp-l0 light_mlp-l2 pyramiddrop visionzip-40 random-40 visionzip random
  uniform smaller_image)
recipes=("${methods[@]/#/configs/recipes/tiny-}")
recipes=("${recipes[@]/%/.yaml}")
shared=(--shared tower,text,caption --batch_size 50)
read -ra seeds <<<"${SEEDS:-0 1}"

keep() { # a finished sweep's figures and plot, and its table in the results page
  mkdir -p "eval/results/$1"
  cp "$runs/$1"/sweep.{json,csv,png} "eval/results/$1/"
  python -m proxyv report "eval/results/$1" --into "eval/README.md#$1"
}

python -m proxyv sweep "${recipes[@]}" --seeds "${seeds[@]}" "${shared[@]}" \
  --output "$runs/synthetic" --data_root "$runs/synthetic-pages"
keep synthetic
python -m proxyv sweep "${recipes[@]}" --seeds "${seeds[@]}" "${shared[@]}" --suite synthetic_location \
  --pages.kinds '[boxes]' --pages.test_pages 200 --output "$runs/location" --data_root "$runs/location-pages"
keep location
