#!/bin/sh
# Makes .venv with what the scripts need and says what torch finds on this machine. To use another build of torch (for
# another CUDA, say), install torch and torchvision into .venv first; to use an environment of your own, give
# PYTHON=path/to/python to the other scripts instead.
set -eu
cd "$(dirname "$0")/.."
REQUIREMENTS=requirements.txt
. scripts/setup.sh

"$PYTHON" -c 'import sys; from helper import errors, processes
sys.exit(errors.run(lambda _: print("torch computes on", processes.choose_device("auto"))))'
