#!/usr/bin/env bash
# Profile every full-size ProxyV recipe against its LLM, into FOLDER/<recipe>/profile.json: FLOPs, vision
# tokens, memory and parameters. `proxyv report eval/results/profiles` makes a table of them.
# Usage: scripts/profile_all.sh [FOLDER]    (default: eval/results/profiles)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

proxyv_environment ''
cd "$PROXYV_ROOT"
folder="${1:-eval/results/profiles}"
for recipe in configs/recipes/*-l*.yaml; do
  name="$(basename "$recipe" .yaml)"
  case "$name" in tiny-* | cpu-*) continue ;; esac
  python -m proxyv profile "$recipe" --compare full --output "$folder/$name/profile.json" >/dev/null
  printf '%s\n' "$name"
done
