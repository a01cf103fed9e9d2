#!/bin/sh
# CIFAR-100, row Student: the student networks trained on the real training set without a teacher
# (the paper: 77.10, 65.31, 72.19 and 73.56 %). Settings of the teachers: batch 256, learning rate
# 0.1, ×0.2 after epochs 120, 150 and 180 of 200. Assumed: weight decay 5e-4.
set -eu
cd "$(dirname "$0")/.."
NAMES=${NAMES:-"resnet18 wrn_16_1 wrn_40_1 wrn_16_2"}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
. scripts/common.sh

for NAME in $NAMES; do
    "$PYTHON" train_teacher.py --dataset cifar100 --model "$NAME" --epochs "$EPOCHS" \
        --batch_size 256 --learning_rate 0.1 --lr_decay_epochs 120,150,180 --lr_decay_rate 0.2 \
        --weight_decay 5e-4 --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} --row Student \
        --save_dir "save/student_model/cifar100_labels/${NAME}_seed$SEED"
done
