#!/usr/bin/env bash
# Count the FLOPs reductions that the paper publishes anew, into eval/results/efficiency.{csv,md,json,png}, and the cost
# of every method at its defaults, into eval/results/methods.json; update the tables of eval/README.md from both. A few minutes
# on one core, no weights needed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
python -m proxyv.experiments.paper_flops --output eval/results --into eval/README.md#efficiency
python -m proxyv.experiments.method_costs --output eval/results/methods.json --into eval/README.md#methods
