#!/bin/sh
# ImageNet-100: a ResNet-50 distilled from a ResNet-18 on DiT images of the 100 classes (the paper:
# 85.9 %). Needs the images (scripts/imagenet100_synthesize.sh) and the teacher
# (scripts/imagenet100_teacher.sh).
# Assumed, since the paper does not give the settings: 200K images, batch 256, τ = 10, 200 epochs.
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}
TEACHER=${TEACHER:-save/models/imagenet100/ResNet18/ResNet18_latest.pth}
STUDENT=${STUDENT:-ResNet50}
IMAGES=${IMAGES:-syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0_imagenet100}
AMOUNT=${AMOUNT:-200k}
EPOCHS=${EPOCHS:-200}
DECAY=${DECAY:-60,120,180}
SEED=${SEED:-0}
NAME=${NAME:-s2_T100_${AMOUNT}_${EPOCHS}epochs_seed$SEED}
MORE=${MORE:-}                           # further flags of train_student.py
. scripts/common.sh

exec "$PYTHON" $TORCHRUN train_student.py --dataset imagenet100 \
    --path-t "$TEACHER" --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" \
    --batch_size 256 --epochs "$EPOCHS" --learning_rate 0.1 --lr_decay_epochs "$DECAY" \
    --weight_decay 1e-4 -r 0 -a 1 --kd_T 10 --num_workers 32 --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"} ${ROW:+--row "$ROW"} \
    --experiments_dir "imagenet100_$STUDENT" --experiments_name "$NAME" $MORE
