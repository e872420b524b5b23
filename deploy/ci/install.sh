#!/usr/bin/env bash
# Install qconf into a new virtual environment: install.sh VENV. With an NVIDIA GPU vLLM's own build, else that for CPUs.
set -euo pipefail
venv=$1
root=$(cd "$(dirname "$0")/../.." && pwd)

if command -v nvidia-smi >/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet "${root}[gpu,bench,report]"
else
  make --directory "$root" setup VENV="$venv"
fi
