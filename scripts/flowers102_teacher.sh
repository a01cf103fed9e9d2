#!/bin/sh
# Flowers-102: its teacher, torchvision's ImageNet ResNet-18 fine-tuned on the real training and
# validation images (the paper's teacher: 87.9 %). torchvision reads the data set and needs scipy.
# Assumed, since the paper does not say how it was trained: fine-tuning for 100 epochs.
set -eu
cd "$(dirname "$0")/.."
EPOCHS=${EPOCHS:-100}
SEED=${SEED:-0}
. scripts/common.sh

exec "$PYTHON" train_teacher.py --dataset flowers102 --model ResNet18 --pretrained \
    --epochs "$EPOCHS" --batch_size 64 --learning_rate 0.01 --schedule cosine --warmup_epochs 1 \
    --weight_decay 5e-4 --seed "$SEED" --resume ${TABLE:+--table "$TABLE"}
