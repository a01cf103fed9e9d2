#!/bin/sh
# Installs what the tests need into .venv and runs them (about 10 minutes on two CPU cores).
# Arguments go to pytest:
#   sh scripts/test.sh tests/test_losses.py -k kd
#   sh scripts/test.sh -n 0 -s tests/test_photographs.py     one process, with what the tests print
set -eu
cd "$(dirname "$0")/.."
TAKES_ARGUMENTS=yes
REQUIREMENTS="requirements.txt tests/requirements.txt"
. scripts/setup.sh

# One thread per process: the networks of the tests are too small for more.
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$PYTHON" -m pytest -q -n auto --dist loadfile "$@"
