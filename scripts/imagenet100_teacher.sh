#!/bin/sh
# ImageNet-100: its teacher, a ResNet18 on the real training images of the 100 classes (the paper's has 89.6 %). They are
# taken from true_dataset/imagenet/{train,val} by dataset/class_lists/imagenet100.txt; nothing is copied.
# The paper does not give the schedule: 200 epochs are assumed.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${GPUS:-8}
EPOCHS=${EPOCHS:-200}
DECAY=${DECAY:-60,120,180}
SEED=${SEED:-0}

"$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    train_teacher.py --dataset imagenet100 --model ResNet18 --seed "$SEED" --epochs "$EPOCHS" --batch_size 256 \
    --learning_rate 0.1 --lr_decay_epochs "$DECAY" --lr_decay_rate 0.1 --weight_decay 1e-4 --num_workers 32 --resume
