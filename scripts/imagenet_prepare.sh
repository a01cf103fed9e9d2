#!/bin/sh
# Prepares ImageNet's validation images: writes true_dataset/imagenet_val.txt.
#   sh scripts/imagenet_prepare.sh                            from the two archives in
#                                                             true_dataset/imagenet/ (needs scipy)
#   IMAGES=/data/imagenet/val sh scripts/imagenet_prepare.sh  one folder per class, named by synset
#   IMAGES=…/CLS-LOC/val SOLUTION=…/LOC_val_solution.csv sh scripts/imagenet_prepare.sh
#                                                             Kaggle's flat folder
#   SPLIT=train sh scripts/imagenet_prepare.sh                the training images, to train teachers
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:-true_dataset}
SPLIT=${SPLIT:-val}
IMAGES=${IMAGES:-}
SOLUTION=${SOLUTION:-}
. scripts/common.sh

exec "$PYTHON" -m tools.imagenet --root "$DATA" --split "$SPLIT" ${IMAGES:+--images "$IMAGES"} \
    ${SOLUTION:+--solution "$SOLUTION"}
