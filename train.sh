#!/usr/bin/env bash
# Trains what config/ of the working directory describes: `sd3tune train` in the environment that
# scripts/setup made. Words are passed on:
#
#   bash train.sh                                config/config.json, .toml or .env
#   bash train.sh max_train_steps=100 --dry-run  with other values; the plan only
#   ENV=cats bash train.sh                       config/cats/
#
#   SD3TUNE_VENV, VENV_PATH   the environment (.venv beside this script, or an activated one)
set -euo pipefail

fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }

venv="${SD3TUNE_VENV:-${VENV_PATH:-}}"
if [ -n "$venv" ]; then
  [ -x "$venv/bin/sd3tune" ] || fail "$venv has no sd3tune" "bash scripts/setup installs it"
else
  venv="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/.venv"
fi
if [ -x "$venv/bin/sd3tune" ]; then
  export PATH="$venv/bin:$PATH"  # compilers of kernels are looked up there
elif ! command -v sd3tune >/dev/null; then
  fail "sd3tune is not installed" "bash scripts/setup, or source an environment that has it"
fi
exec sd3tune train "$@"
