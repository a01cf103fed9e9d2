#!/bin/sh
# CIFAR-100, the row "Student": the students' networks trained on the real training set without a teacher (the paper: 77.10,
# 65.31, 72.19 and 73.56 %), with the teachers' settings: batch 256, rate 0.1, ×0.2 after epochs 120, 150 and 180 of 200.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
NAMES=${NAMES:-"resnet18 wrn_16_1 wrn_40_1 wrn_16_2"}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}

for NAME in $NAMES; do
    "$PYTHON" train_teacher.py --dataset cifar100 --model "$NAME" --row Student --seed "$SEED" --epochs "$EPOCHS" \
        --batch_size 256 --learning_rate 0.1 --lr_decay_epochs 120,150,180 --lr_decay_rate 0.2 --weight_decay 5e-4 --resume
done
