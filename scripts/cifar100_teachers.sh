#!/bin/sh
# CIFAR-100 teachers, trained on the real training set with the settings behind the published ones (78.05, 71.32 and
# 75.83 %): batch 256, rate 0.1, ×0.2 after epochs 120, 150 and 180 of 200. The published files of Fast-Datafree
# (cifar100_resnet34.pth, …) serve as well: put each at save/models/cifar100/<name>/. One GPU: about an hour a teacher.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
NAMES=${NAMES:-"resnet34 vgg11 wrn_40_2"}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}

for NAME in $NAMES; do
    "$PYTHON" train_teacher.py --dataset cifar100 --model "$NAME" --seed "$SEED" --epochs "$EPOCHS" --batch_size 256 \
        --learning_rate 0.1 --lr_decay_epochs 120,150,180 --lr_decay_rate 0.2 --weight_decay 5e-4 --resume
done
