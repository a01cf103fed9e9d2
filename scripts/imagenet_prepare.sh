#!/bin/sh
# ImageNet's validation images, made ready: writes true_dataset/imagenet_val.txt. Settings can be given:
#   sh scripts/imagenet_prepare.sh                       the two archives in true_dataset/imagenet/ (needs scipy)
#   IMAGES=/data/imagenet/val sh scripts/imagenet_prepare.sh                 one folder a class, named by synset
#   IMAGES=…/CLS-LOC/val SOLUTION=…/LOC_val_solution.csv sh scripts/imagenet_prepare.sh      Kaggle's flat folder
#   SPLIT=train …                                        the training images, for training teachers
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-true_dataset}
SPLIT=${SPLIT:-val}
IMAGES=${IMAGES:-}
SOLUTION=${SOLUTION:-}

"$PYTHON" -m tools.imagenet --root "$DATA" --split "$SPLIT" ${IMAGES:+--images "$IMAGES"} \
    ${SOLUTION:+--solution "$SOLUTION"}
