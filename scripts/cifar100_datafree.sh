#!/bin/sh
# CIFAR-100, the rows "DAFL", "DFQ" and "DeepInv": the five pairs with images that are made while the student learns, from the
# teacher alone. Needs the teachers (scripts/cifar100_teachers.sh). Settings as in Fast-Datafree, which gives them for
# CIFAR-10 and produced the published rows: 200 epochs of 400 steps of 256 images, rate 0.1, cosine to 2e-4, weight decay 1e-4.
#   METHOD=dfq sh scripts/cifar100_datafree.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
METHOD=${METHOD:-dafl}                   # or dfq, deepinversion
PAIRS=${PAIRS:-"resnet34:resnet18 vgg11:resnet18 wrn_40_2:wrn_16_1 wrn_40_2:wrn_40_1 wrn_40_2:wrn_16_2"}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}

for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*}
    STUDENT=${PAIR#*:}
    "$PYTHON" train_datafree.py --method "$METHOD" --dataset cifar100 --model_s "$STUDENT" \
        --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" --epochs "$EPOCHS" --seed "$SEED" --resume \
        --experiments_dir "cifar100_$TEACHER-$STUDENT" --experiments_name "${METHOD}_${EPOCHS}epochs_seed$SEED"
done
