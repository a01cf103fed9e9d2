#!/bin/sh
# ImageNet-1K, row One-Image: 1.28M patches of 256 pixels cut from one photograph, then a ResNet-50
# on them from a ResNet-18 (the paper: 66.20 %, 200 epochs) with the method's own recipe: AdamW at
# 0.01, weight decay 5e-4, 512 images per GPU, τ = 8 without the factor τ², CutMix β(1, 1) in every
# batch, bicubic crops and colour jitter.
# The published photographs have at least 2,500 pixels per side: name yours in IMAGE. Needs the
# teacher (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: a cosine schedule from 0.01 to 0.
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}
IMAGES=${IMAGES:-}                       # a folder of patches; by default they are cut from IMAGE
AMOUNT=${AMOUNT:-1.28m}
TEACHER=${TEACHER:-save/models/ResNet18/resnet18.pth}
STUDENT=${STUDENT:-ResNet50}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the patches
: "${IMAGES:-${IMAGE:?name the photograph: IMAGE=photograph.jpg}}"
. scripts/common.sh
BATCH=${BATCH:-$((512 * GPUS))}          # of all processes

cut_patches 256
exec "$PYTHON" $TORCHRUN train_student.py --dataset imagenet \
    --path-t "$TEACHER" --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" \
    --batch_size "$BATCH" --epochs "$EPOCHS" --optimizer adamw --learning_rate 0.01 \
    --weight_decay 5e-4 --schedule cosine --kd_T 8 --no_tau2 --use_aug cutmix --mix_beta 1 \
    --augment colour --num_workers 32 --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"} --row One-Image --experiments_dir "imagenet_$STUDENT" \
    --experiments_name "one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED"
