#!/bin/sh
# CIFAR-100, row KD: the five pairs on the real training set (the paper: 77.87, 75.07, 64.06, 68.58
# and 70.79 %). τ = 1, batch 128, learning rate 0.1, ×0.1 after epochs 120, 150 and 180.
# Assumed: 200 epochs, weight decay 5e-4. Needs the teachers (scripts/cifar100_teachers.sh).
set -eu
cd "$(dirname "$0")/.."
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
. scripts/common.sh
check_pairs teacher:student

for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*} STUDENT=${PAIR#*:}
    "$PYTHON" train_student.py --dataset cifar100 \
        --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" --model_s "$STUDENT" \
        --train_data real --batch_size 128 --epochs "$EPOCHS" --learning_rate 0.1 \
        --lr_decay_epochs 120,150,180 --weight_decay 5e-4 --kd_T 1 --seed "$SEED" --resume \
        ${TABLE:+--table "$TABLE"} --row KD --experiments_dir "cifar100_$TEACHER-$STUDENT" \
        --experiments_name "kd_${EPOCHS}epochs_seed$SEED"
done
