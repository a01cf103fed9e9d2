#!/bin/sh
# ImageNet-100, column One-Image: a ResNet-50 distilled from a ResNet-18 on patches of one
# photograph (the paper: 84.4 %). The published photographs have at least 2,500 pixels per side:
# name yours in IMAGE. Needs the teacher (scripts/imagenet100_teacher.sh).
# Assumed: the settings of scripts/imagenet100_distill.sh, with 200K patches.
set -eu
cd "$(dirname "$0")/.."
IMAGES=${IMAGES:-}                       # a folder of patches; by default they are cut from IMAGE
AMOUNT=${AMOUNT:-200k}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
IMAGE_SEED=${IMAGE_SEED:-$SEED}          # seed of the patches
: "${IMAGES:-${IMAGE:?name the photograph: IMAGE=photograph.jpg}}"
. scripts/common.sh

cut_patches 256
NAME=one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED
export IMAGES AMOUNT EPOCHS SEED NAME ROW=One-Image
exec sh scripts/imagenet100_distill.sh
