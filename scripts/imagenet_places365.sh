#!/bin/sh
# ImageNet-1K, row Place365+KD: 1.8M real photographs of places, whose labels are not used, with a
# ResNet-50 as teacher (the paper: 55.74 % for a ResNet-50, 45.53 % for a ResNet-18, 200 epochs).
# Needs Places365 (true_dataset/README.md), the teacher (scripts/imagenet_teachers.sh) and the
# validation set.
# Assumed, as for DM-KD: batch 256, learning rate 0.1, ×0.1 after epochs 60, 120 and 180, τ = 10.
#   STUDENT=ResNet18 sh scripts/imagenet_places365.sh
set -eu
cd "$(dirname "$0")/.."
TEACHER=${TEACHER:-save/models/ResNet50/resnet50.pth}
STUDENT=${STUDENT:-ResNet50}
IMAGES=${IMAGES:-true_dataset/places365}
AMOUNT=${AMOUNT:-1.8m}
EPOCHS=${EPOCHS:-200}
DECAY=${DECAY:-60,120,180}
SEED=${SEED:-0}
NAME=places365_${AMOUNT}_${EPOCHS}epochs_seed$SEED

export TEACHER STUDENT IMAGES AMOUNT EPOCHS DECAY SEED NAME ROW=Place365+KD MORE=--ignore_labels
exec sh scripts/imagenet_distill.sh "$@"
