#!/bin/sh
# Fashion-MNIST, row Student: a ResNet-8 trained on the 55,000 real labelled images without a
# teacher. 2 epochs are the length of the other rows, 128,000 image-steps (2.3 epochs), rounded.
set -eu
cd "$(dirname "$0")/.."
EPOCHS=${EPOCHS:-2}
SEED=${SEED:-0}
. scripts/common.sh

exec "$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet8 --epochs "$EPOCHS" \
    --batch_size 32 --learning_rate 0.05 --schedule cosine --warmup_epochs 0.1 \
    --weight_decay 5e-4 --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} --row Student \
    --save_dir "save/student_model/fashion_mnist/student_seed$SEED"
