#!/bin/sh
# CIFAR-100, the five pairs of the paper's first table: 50K ImageNet images of the DiT, resized to 32×32, whose labels play
# no part; released settings (240 epochs, batch 128, τ = 4). PAIRS="wrn_40_2:wrn_16_1" sh scripts/cifar100_distill.sh runs one.
# Needs the teachers (scripts/cifar100_teachers.sh) and images (scripts/imagenet_synthesize.sh, or the released set).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PAIRS=${PAIRS:-"resnet34:resnet18 vgg11:resnet18 wrn_40_2:wrn_16_1 wrn_40_2:wrn_40_1 wrn_40_2:wrn_16_2"}
IMAGES=${IMAGES:-syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0}
AMOUNT=${AMOUNT:-50k}
EPOCHS=${EPOCHS:-240}
DECAY=${DECAY:-150,180,210}
SEED=${SEED:-0}
NAME=${NAME:-${AMOUNT}_${EPOCHS}epochs_seed$SEED}
MORE=${MORE:-}                           # further flags of train_student.py

for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*}
    STUDENT=${PAIR#*:}
    "$PYTHON" train_student.py --dataset cifar100 --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" \
        --model_s "$STUDENT" --train_data "$IMAGES" --ignore_labels --data_amount "$AMOUNT" \
        --batch_size 128 --epochs "$EPOCHS" --learning_rate 0.1 --lr_decay_epochs "$DECAY" --weight_decay 5e-4 \
        -r 0 -a 1 --kd_T 4 --seed "$SEED" --resume \
        --experiments_dir "cifar100_$TEACHER-$STUDENT" --experiments_name "$NAME" $MORE
done
