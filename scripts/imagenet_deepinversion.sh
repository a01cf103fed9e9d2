#!/bin/sh
# ImageNet-1K, row DeepInv: 140 images per class by DeepInversion of a ResNet-50, 2,000 steps at
# half resolution and 1,000 at full resolution, then a ResNet-50 on them (the paper: 68.00 %, 140K
# images, 90 epochs). Needs the teacher (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: batch 256, learning rate 0.1, ×0.1 after epochs 30 and 60, τ = 10.
#   ESTIMATE=1 sh scripts/imagenet_deepinversion.sh           the cost of the images, most of all
#   PATH_S=CHECKPOINT sh scripts/imagenet_deepinversion.sh    adaptive DeepInversion
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-140}
PATH_S=${PATH_S:-}
ESTIMATE=${ESTIMATE:+--estimate}
TEACHER=${TEACHER:-save/models/ResNet50/resnet50.pth}
STUDENT=${STUDENT:-ResNet50}
EPOCHS=${EPOCHS:-90}
DECAY=${DECAY:-30,60}
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the images
AMOUNT=$((1000 * IMAGES_PER_CLASS))
IMAGES=syn_dataset/deepinversion_imagenet_$(basename "${TEACHER%.*}")
IMAGES=$IMAGES${PATH_S:+_adaptive}_seed$IMAGE_SEED
NAME=deepinversion_${AMOUNT}_${EPOCHS}epochs_seed$SEED
. scripts/common.sh

"$PYTHON" $TORCHRUN synthesize_baseline.py --method deepinversion --dataset imagenet \
    --path-t "$TEACHER" ${PATH_S:+--path-s "$PATH_S"} --images_per_class "$IMAGES_PER_CLASS" \
    --seed "$IMAGE_SEED" --save_dir "$IMAGES" $ESTIMATE
[ -z "$ESTIMATE" ] || exit 0
export GPUS TEACHER STUDENT IMAGES AMOUNT EPOCHS DECAY SEED NAME ROW=DeepInv
exec sh scripts/imagenet_distill.sh
