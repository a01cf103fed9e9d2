#!/bin/sh
# ImageNet-100: its teacher, a ResNet-18 on the real training images of the 100 classes (the
# paper's: 89.6 %). dataset/class_lists/imagenet100.txt selects them from
# true_dataset/imagenet/{train,val}; nothing is copied.
# Assumed, since the paper does not give the schedule: 200 epochs.
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}
EPOCHS=${EPOCHS:-200}
DECAY=${DECAY:-60,120,180}
SEED=${SEED:-0}
. scripts/common.sh

exec "$PYTHON" $TORCHRUN train_teacher.py --dataset imagenet100 --model ResNet18 \
    --epochs "$EPOCHS" --batch_size 256 --learning_rate 0.1 --lr_decay_epochs "$DECAY" \
    --lr_decay_rate 0.1 --weight_decay 1e-4 --num_workers 32 --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"}
