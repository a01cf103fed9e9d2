#!/bin/sh
# CIFAR-100, row One-Image: 50K patches of 32 pixels cut from one photograph, then the five pairs on
# them (the paper: 74.56, 68.51, 34.62, 52.39 and 54.71 %) with the method's own recipe: Adam at
# 1e-3, 1,000 epochs, τ = 8 without the factor τ², CutMix β(0.25, 0.25).
# The published photographs have at least 2,500 pixels per side: name yours in IMAGE. The default is
# a small one that matplotlib ships. Needs the teachers (scripts/cifar100_teachers.sh).
# Assumed: batch 512, cosine schedule to 0, no weight decay.
set -eu
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-}
IMAGES=${IMAGES:-}                       # a folder of patches; by default they are cut from IMAGE
AMOUNT=${AMOUNT:-50k}
EPOCHS=${EPOCHS:-1000}
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the patches
. scripts/common.sh
check_pairs teacher:student

cut_patches 32
for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*} STUDENT=${PAIR#*:}
    "$PYTHON" train_student.py --dataset cifar100 \
        --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" --model_s "$STUDENT" \
        --train_data "$IMAGES" --data_amount "$AMOUNT" --batch_size 512 --epochs "$EPOCHS" \
        --optimizer adam --learning_rate 1e-3 --weight_decay 0 --schedule cosine \
        --kd_T 8 --no_tau2 --use_aug cutmix --mix_beta 0.25 --seed "$SEED" --resume \
        ${TABLE:+--table "$TABLE"} --row One-Image --experiments_dir "cifar100_$TEACHER-$STUDENT" \
        --experiments_name "one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED"
done
