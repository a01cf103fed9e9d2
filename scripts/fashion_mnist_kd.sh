#!/bin/sh
# DM-KD and, with SOURCE=real, KD of the Fashion-MNIST table: the quickstart with the sampling of
# the table, DDIM with T = 25. The quickstart's variables can be given, with a RUN of another name.
set -eu
cd "$(dirname "$0")/.."
export SOURCE="${SOURCE:-generated}"
export SAMPLER="${SAMPLER:-ddim}" SPACING="${SPACING-}" STEPS="${STEPS:-25}"
export IMAGES="${IMAGES:-8000}" EPOCHS="${EPOCHS:-16}" BATCH="${BATCH:-32}"
export DISTILL="${DISTILL:-kd}" AMP="${AMP:-auto}" SEED="${SEED:-0}" SPLIT="${SPLIT:-test}"
export TABLE="${TABLE:-fashion_mnist}" DIR="${DIR:-fashion_mnist}"
export RUN="${RUN:-${SOURCE}_${IMAGES}x${EPOCHS}_seed${SEED}_$SPLIT}"
exec sh scripts/quickstart.sh "$@"
