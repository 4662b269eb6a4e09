#!/usr/bin/env bash
# Makes the Python environment the other scripts run in. It is sourced:
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
#   proxyv_environment EXTRA[,EXTRA…]      # '' for none; from here on `python` is the environment's
#   proxyv_launch ARGUMENTS                # torchrun with these; ends the script, with torchrun's code or 75 (see below)
#
#   PYTHON         the interpreter to build the environment with
#                  (default: the first of python3.12, python3.11, python3.10, python3 that is at least 3.10)
#   PROXYV_VENV    where the environment is kept (default: .venv in the repository)
#   PROXYV_PYTHON  an interpreter that already has everything, as in a container or a cluster module:
#                  it is used as it is and nothing is installed

PROXYV_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_say() { printf 'proxyv: %s\n' "$*" >&2; }
_fail() { _say "$*"; exit 2; }

_suitable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

_interpreter() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.12 python3.11 python3.10 python3; fi
  for candidate in "$@"; do
    # A name on the PATH proves nothing (version managers leave stubs there), so each one is tried.
    if _suitable "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  _fail "no Python 3.10 or newer with the venv module among: $*; set PYTHON=/path/to/python3"
}

_has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
# Processes a launcher starts by default: one a visible GPU, else one.
proxyv_processes() { python -c 'import torch; print(max(1, torch.cuda.device_count()))'; }
_torch_version() { python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true; }

# PyPI's torch for Linux carries several GB of CUDA libraries; CPU builds live on PyTorch's own index. That index is
# offered to pip only if it answers, since pip would retry a dead address for minutes. The pin in constraints-cpu.txt
# takes a CPU build from there or from anything the user's pip settings already offer (see the note in that file).
# The alarm also ends a name look-up that hangs, which urlopen's timeout does not.
_install_cpu_torch() {
  local index=https://download.pytorch.org/whl/cpu
  set -- -c "$PROXYV_ROOT/constraints-cpu.txt" torch
  if python - "$index/torch/" <<'PY' 2>/dev/null
import signal, sys, urllib.request
if hasattr(signal, "alarm"):
    signal.alarm(5)
urllib.request.urlopen(sys.argv[1], timeout=3).close()
PY
  then set -- "$@" --extra-index-url "$index"; fi
  _pip install "$@"
}

# pip's progress is for people; in a log it is noise.
_pip() { if [ -t 1 ]; then python -m pip "$@"; else python -m pip -qq "$@"; fi; }

_make_venv() {
  local venv="$1" interpreter
  if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  # Only what is an environment, or nothing at all, may be cleared.
  if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    _fail "$venv exists and is no Python environment; set PROXYV_VENV to another place"
  fi
  interpreter="$(_interpreter)" || exit
  _say "making $venv with $("$interpreter" --version)"
  "$interpreter" -m venv --clear "$venv"
}

proxyv_environment() {
  local extras="$1" venv="${PROXYV_VENV:-$PROXYV_ROOT/.venv}" key torch
  if [ -n "${PROXYV_PYTHON:-}" ]; then
    command -v "$PROXYV_PYTHON" >/dev/null || _fail "PROXYV_PYTHON=$PROXYV_PYTHON is no program"
    # shellcheck disable=SC2317  # called by the scripts that source this file
    python() { command "$PROXYV_PYTHON" "$@"; }
    export PYTHONPATH="$PROXYV_ROOT${PYTHONPATH:+:$PYTHONPATH}"
    return
  fi

  _make_venv "$venv"
  venv="$(cd "$venv" && pwd)"
  export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
  unset PYTHONHOME

  # An environment is as good as new while the files that describe it, and the checkout's place, have not changed.
  # One with more extras than asked for will do. The exception: a GPU has appeared and torch is a CPU build.
  # (The other way round is fine: a CUDA build runs on a machine without a GPU, a cluster's login node for example.)
  key="$(cd "$PROXYV_ROOT" && cat pyproject.toml constraints-cpu.txt requirements-lmms-eval.txt <(pwd) | cksum)"
  torch="$(_torch_version)"
  if _has_gpu; then
    case "$torch" in *+cpu) _pip uninstall --yes torch; rm -f "$venv"/.proxyv-*.stamp ;; esac
  fi
  if grep -qxF "$key" "$venv"/.proxyv-*"$extras"*.stamp 2>/dev/null; then return; fi

  _say "installing proxyv${extras:+[$extras]} into $venv (a few minutes the first time)"
  if ! _has_gpu; then
    case "$torch" in '' | *+cpu) _install_cpu_torch ;; esac
  fi
  _pip install --editable "$PROXYV_ROOT${extras:+[$extras]}"
  case ",$extras," in
  *,eval,* | *,dev,*) _pip install --no-deps -r "$PROXYV_ROOT/requirements-lmms-eval.txt" ;;
  esac
  echo "$key" >"$venv/.proxyv-${extras:-core}.stamp"
}

# Torchrun passes SIGTERM on to its processes, which save a checkpoint behind the step they are at, but knows nothing of
# SIGUSR1, kills after 30 seconds and ends with 1 whatever they end with. Here both signals become SIGTERM, there is time
# to save (TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds), and the code is 75 as without torchrun: start it again with --resume.
proxyv_launch() {
  local asked='' code=0 child
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
  "${PROXYV_PYTHON:-python}" -m torch.distributed.run "$@" &
  child=$!
  trap 'asked=1; kill -TERM "$child" 2>/dev/null' TERM USR1
  trap 'kill -INT "$child" 2>/dev/null' INT # what bash starts in the background does not hear Ctrl-C by itself
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  if [ -n "$asked" ] && [ "$code" -ne 0 ]; then exit 75; fi
  exit "$code"
}
