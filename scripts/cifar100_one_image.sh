#!/bin/sh
# CIFAR-100, the row "One-Image": 50K patches of 32 pixels of one photograph, then the five pairs on them with the method's
# recipe (the paper: 74.56, 68.51, 34.62, 52.39 and 54.71 %): Adam at 1e-3, 1,000 epochs, τ = 8 without the factor τ²,
# CutMix β(0.25, 0.25). The published photographs have 2,500 pixels a side and more: give yours as IMAGE; the default is a small one
# that matplotlib ships. Needs the teachers (scripts/cifar100_teachers.sh). Assumed: batch 512, a cosine to 0, no weight decay.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PAIRS=${PAIRS:-"resnet34:resnet18 vgg11:resnet18 wrn_40_2:wrn_16_1 wrn_40_2:wrn_40_1 wrn_40_2:wrn_16_2"}
IMAGE=${IMAGE:-}
AMOUNT=${AMOUNT:-50k}
EPOCHS=${EPOCHS:-1000}
SEED=${SEED:-0}
IMAGES=${IMAGES:-syn_dataset/one-image_$(basename "${IMAGE:-default}" | cut -d. -f1)_32_seed$SEED}

"$PYTHON" synthesize_baseline.py --method one-image ${IMAGE:+--image "$IMAGE"} --image-size 32 --data_amount "$AMOUNT" \
    --seed "$SEED" --save_dir "$IMAGES"
for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*}
    STUDENT=${PAIR#*:}
    "$PYTHON" train_student.py --dataset cifar100 --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" \
        --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" --batch_size 512 --epochs "$EPOCHS" \
        --optimizer adam --learning_rate 1e-3 --weight_decay 0 --schedule cosine --kd_T 8 --no_tau2 --use_aug cutmix \
        --mix_beta 0.25 --seed "$SEED" --resume --experiments_dir "cifar100_$TEACHER-$STUDENT" \
        --experiments_name "one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED"
done
