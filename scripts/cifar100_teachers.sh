#!/bin/sh
# CIFAR-100, row Teacher: ResNet-34, VGG-11 and WRN-40-2 on the real training set with the published
# settings (78.05, 71.32 and 75.83 %): batch 256, learning rate 0.1, ×0.2 after epochs 120, 150 and
# 180 of 200. About an hour per teacher on one GPU. Assumed: weight decay 5e-4.
# The files published by Fast-Datafree (cifar100_resnet34.pth, …) can be used instead: put each in
# save/models/cifar100/<name>/.
set -eu
cd "$(dirname "$0")/.."
NAMES=${NAMES:-"resnet34 vgg11 wrn_40_2"}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
. scripts/common.sh

for NAME in $NAMES; do
    "$PYTHON" train_teacher.py --dataset cifar100 --model "$NAME" --epochs "$EPOCHS" \
        --batch_size 256 --learning_rate 0.1 --lr_decay_epochs 120,150,180 --lr_decay_rate 0.2 \
        --weight_decay 5e-4 --seed "$SEED" --resume ${TABLE:+--table "$TABLE"}
done
