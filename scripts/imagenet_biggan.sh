#!/bin/sh
# ImageNet-1K, the row "BigGAN": 215 images a class of the published BigGAN-deep at 256 pixels, then a ResNet50 on them
# (the paper: 64.00 %, 215K images, 90 epochs). Needs the generator's two files (syn_dataset/README.md), the teacher
# (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: truncation 1, a ResNet50 as the teacher, batch 256, rate 0.1, drops after 30 and 60 epochs, τ = 10.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
MODEL=${MODEL:-biggan-deep-256}
TRUNCATION=${TRUNCATION:-1}
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-215}
export GPUS="${GPUS:-8}"
export STUDENT="${STUDENT:-ResNet50}"
export TEACHER="${TEACHER:-save/models/ResNet50/resnet50.pth}"
export EPOCHS="${EPOCHS:-90}"
export DECAY="${DECAY:-30,60}"
export SEED="${SEED:-0}"
export AMOUNT="$((1000 * IMAGES_PER_CLASS))"
export IMAGES="syn_dataset/${MODEL}_truncation${TRUNCATION}_seed$SEED"
export NAME="biggan_${AMOUNT}_${EPOCHS}epochs_seed$SEED"

"$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    synthesize_baseline.py --method biggan --model "$MODEL" --truncation "$TRUNCATION" --images_per_class "$IMAGES_PER_CLASS" \
    --seed "$SEED" --save_dir "$IMAGES"
exec sh scripts/imagenet_distill.sh
