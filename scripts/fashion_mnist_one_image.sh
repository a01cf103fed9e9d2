#!/bin/sh
# Fashion-MNIST, row One-Image: patches of one photograph (by default a small one that matplotlib
# ships), then a ResNet-8 on them from the shipped ResNet-20. 128,000 image-steps. The settings are
# those of the best trial on holdout (scripts/fashion_mnist_trials.sh).
set -eu
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-}
IMAGES=${IMAGES:-}                       # a folder of patches; by default they are cut from IMAGE
AMOUNT=${AMOUNT:-8000}
EPOCHS=${EPOCHS:-16}
AMP=${AMP:-auto}                         # AMP=bf16 is fast on CPUs with AMX
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the patches
NAME=${NAME:-one-image_128k_seed$SEED}
. scripts/common.sh

cut_patches 32
exec "$PYTHON" train_student.py --dataset fashion_mnist \
    --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --model_s resnet8 \
    --train_data "$IMAGES" --data_amount "$AMOUNT" --epochs "$EPOCHS" --batch_size 16 \
    --learning_rate 0.05 --schedule cosine --warmup_epochs 1 --weight_decay 5e-4 --kd_T 4 \
    --amp "$AMP" --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} --row One-Image \
    --experiments_dir fashion_mnist --experiments_name "$NAME"
