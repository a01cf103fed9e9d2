#!/bin/sh
# ImageNet-1K, the row "DeepInv": 140 images a class by DeepInversion of a ResNet50, 2,000 steps at half and 1,000 at full
# resolution, then a ResNet50 on them (the paper: 68.00 %, 140K images, 90 epochs). Needs the teacher
# (scripts/imagenet_teachers.sh) and the validation set. ESTIMATE=1 computes the cost of the images, the larger part.
# Assumed: batch 256, rate 0.1, drops after 30 and 60 epochs, τ = 10. PATH_S=CHECKPOINT: the adaptive form.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-140}
PATH_S=${PATH_S:-}
ESTIMATE=${ESTIMATE:+--estimate}
export GPUS="${GPUS:-8}"
export STUDENT="${STUDENT:-ResNet50}"
export TEACHER="${TEACHER:-save/models/ResNet50/resnet50.pth}"
export EPOCHS="${EPOCHS:-90}"
export DECAY="${DECAY:-30,60}"
export SEED="${SEED:-0}"
export AMOUNT="$((1000 * IMAGES_PER_CLASS))"
export IMAGES="syn_dataset/deepinversion_imagenet_$(basename "${TEACHER%.*}")${PATH_S:+_adaptive}_seed$SEED"
export NAME="deepinversion_${AMOUNT}_${EPOCHS}epochs_seed$SEED"

"$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    synthesize_baseline.py --method deepinversion --dataset imagenet --path-t "$TEACHER" ${PATH_S:+--path-s "$PATH_S"} \
    --images_per_class "$IMAGES_PER_CLASS" --seed "$SEED" --save_dir "$IMAGES" $ESTIMATE
[ -n "$ESTIMATE" ] || exec sh scripts/imagenet_distill.sh
