#!/bin/sh
# Creates .venv with the packages that the scripts need and prints the device that torch finds. For
# another build of torch (another CUDA version, say), install torch and torchvision into .venv
# first. To use an environment of your own, give PYTHON=path/to/python to the other scripts.
set -eu
cd "$(dirname "$0")/.."
PYTHON=                                  # always .venv
REQUIREMENTS=requirements.txt
. scripts/setup.sh

"$PYTHON" -c 'import sys
from helper import distributed, errors
report = lambda _: print("torch computes on", distributed.choose_device("auto"))
sys.exit(errors.run_script(report))'
