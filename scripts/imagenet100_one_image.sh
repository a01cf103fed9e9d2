#!/bin/sh
# ImageNet-100, the column "One-Image": a ResNet50 from a ResNet18 on patches of one photograph (the paper: 84.4 %). Needs the
# teacher (scripts/imagenet100_teacher.sh). The published photographs have 2,500 pixels a side and more: give yours as IMAGE.
# The paper does not give these settings: those of scripts/imagenet100_distill.sh are assumed, 200K patches included.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
IMAGE=${IMAGE:?give the photograph: IMAGE=photograph.jpg sh scripts/imagenet100_one_image.sh}
export AMOUNT="${AMOUNT:-200k}"
export EPOCHS="${EPOCHS:-200}"
export SEED="${SEED:-0}"
IMAGES=syn_dataset/one-image_$(basename "${IMAGE%.*}")_256_seed$SEED
export IMAGES
export NAME="one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED"

"$PYTHON" synthesize_baseline.py --method one-image --image "$IMAGE" --image-size 256 --data_amount "$AMOUNT" \
    --seed "$SEED" --save_dir "$IMAGES"
exec sh scripts/imagenet100_distill.sh
