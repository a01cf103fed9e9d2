#!/bin/sh
# CIFAR-100, rows DAFL, DFQ and DeepInv: the five pairs, with images synthesised during the training
# from the teacher alone. Needs the teachers (scripts/cifar100_teachers.sh).
# Settings of Fast-Datafree, which produced the published numbers: 200 epochs of 400 steps of 256
# images, learning rate 0.1, cosine to 2e-4, weight decay 1e-4.
# Assumed: the settings that it gives for CIFAR-10; DeepInv takes 1,000 steps per batch of images
# (the table says 2,000).
#   METHOD=dfq sh scripts/cifar100_datafree.sh
set -eu
cd "$(dirname "$0")/.."
METHOD=${METHOD:-dafl}                   # or dfq, deepinversion
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
. scripts/common.sh
check_pairs teacher:student

for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*} STUDENT=${PAIR#*:}
    "$PYTHON" train_datafree.py --method "$METHOD" --dataset cifar100 \
        --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" --model_s "$STUDENT" \
        --epochs "$EPOCHS" --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} \
        --experiments_dir "cifar100_$TEACHER-$STUDENT" \
        --experiments_name "${METHOD}_${EPOCHS}epochs_seed$SEED"
done
