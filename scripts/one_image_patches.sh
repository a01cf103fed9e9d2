#!/bin/sh
# One-Image's training images on their own: patches of one photograph, in
# syn_dataset/one-image_<photograph>_<size>_seed<seed>. The recipes *_one_image.sh cut their patches
# themselves; this one serves runs that share a folder, which they are given as IMAGES.
#   IMAGE=photograph.jpg SIZE=256 AMOUNT=1.28m sh scripts/one_image_patches.sh
set -eu
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-}                         # default: a small photograph that matplotlib ships
SIZE=${SIZE:-32}                         # pixels per side
AMOUNT=${AMOUNT:-50k}
IMAGE_SEED=${SEED:-0}
IMAGES=
. scripts/common.sh

cut_patches "$SIZE"
