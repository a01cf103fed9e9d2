#!/bin/sh
# The paper's ImageNet teachers are torchvision's first published weights. Downloads them to
# save/models/<name>/<name in lower case>.pth, the layout of the released teachers, so that
# --path-t save/models/ResNet18/resnet18.pth works as published.
set -eu
cd "$(dirname "$0")/.."
NAMES=${NAMES:-"ResNet18 ResNet50"}      # also ResNet34, ShuffleV2
. scripts/common.sh

for NAME in $NAMES; do
    "$PYTHON" -m tools.fetch_weights "$NAME"
done
