#!/bin/sh
# Installs what the tests need into .venv and runs them (about 5 minutes on two slow CPU cores). Words go to pytest:
#   sh scripts/test.sh tests/test_losses.py -k kd
set -eu
cd "$(dirname "$0")/.."
REQUIREMENTS="requirements.txt tests/requirements.txt"
. scripts/setup.sh

# One thread a process: the tests' networks are too small for more.
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$PYTHON" -m pytest -q "$@"
