#!/bin/sh
# ImageNet-1K, the row "Places365 + KD": 1.8M real photographs of places, whose labels play no part, with a ResNet50 as
# the teacher (the paper: 55.74 % for a ResNet50, 45.53 % for a ResNet18, 200 epochs). Needs Places365
# (true_dataset/README.md), the teacher (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: batch 256, rate 0.1, drops after 60, 120 and 180 epochs, τ = 10, as for DM-KD.
#   STUDENT=ResNet18 sh scripts/imagenet_places365.sh
set -eu
cd "$(dirname "$0")/.."
export STUDENT="${STUDENT:-ResNet50}"
export TEACHER="${TEACHER:-save/models/ResNet50/resnet50.pth}"
export IMAGES="${IMAGES:-true_dataset/places365}"
export AMOUNT="${AMOUNT:-1.8m}"
export EPOCHS="${EPOCHS:-200}"
export DECAY="${DECAY:-60,120,180}"
export SEED="${SEED:-0}"
export NAME="places365_${AMOUNT}_${EPOCHS}epochs_seed$SEED"
export MORE="--ignore_labels --row Place365+KD"

exec sh scripts/imagenet_distill.sh
