#!/bin/sh
# ImageNet-1K, row BigGAN: 215 images per class from the published BigGAN-deep at 256 pixels, then a
# ResNet-50 on them (the paper: 64.00 %, 215K images, 90 epochs). Needs the two files of the
# generator (syn_dataset/README.md), the teacher (scripts/imagenet_teachers.sh) and the validation
# set (scripts/imagenet_prepare.sh).
# Assumed: truncation 1, a ResNet-50 as teacher, batch 256, learning rate 0.1, ×0.1 after epochs 30
# and 60, τ = 10.
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}
MODEL=${MODEL:-biggan-deep-256}
TRUNCATION=${TRUNCATION:-1}
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-215}
TEACHER=${TEACHER:-save/models/ResNet50/resnet50.pth}
STUDENT=${STUDENT:-ResNet50}
EPOCHS=${EPOCHS:-90}
DECAY=${DECAY:-30,60}
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the images
AMOUNT=$((1000 * IMAGES_PER_CLASS))
IMAGES=syn_dataset/${MODEL}_truncation${TRUNCATION}_seed$IMAGE_SEED
NAME=biggan_${AMOUNT}_${EPOCHS}epochs_seed$SEED
. scripts/common.sh

"$PYTHON" $TORCHRUN synthesize_baseline.py --method biggan --model "$MODEL" \
    --truncation "$TRUNCATION" --images_per_class "$IMAGES_PER_CLASS" --seed "$IMAGE_SEED" \
    --save_dir "$IMAGES"
export GPUS TEACHER STUDENT IMAGES AMOUNT EPOCHS DECAY SEED NAME ROW=BigGAN
exec sh scripts/imagenet_distill.sh
