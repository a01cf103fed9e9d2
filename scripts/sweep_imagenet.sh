#!/bin/sh
# ImageNet-1K: varies one setting of DM-KD: RN-18 → RN-18, 200K images of s = 2, T = 100, 100
# epochs, τ = 10. Samples what is missing, distils, and writes results/sweeps/imagenet_$SWEEP.csv,
# .md and .png. Run it again to continue; sweeps share the runs that they have in common. Values and
# baselines, with what the paper states and what is assumed: VALUES in run_sweep.py.
# Needs what scripts/imagenet_synthesize.sh and scripts/imagenet_distill.sh need, and for
# SWEEP=teacher: NAMES="ResNet18 ResNet34 ResNet50" sh scripts/imagenet_teachers.sh.
#   SWEEP=fidelity GPUS=8 sh scripts/sweep_imagenet.sh
#   SWEEP=temperature VALUES="5 10" SEEDS="0 1 2" sh scripts/sweep_imagenet.sh
set -eu
cd "$(dirname "$0")/.."
SWEEP=${SWEEP:-fidelity}     # teacher, images, epochs, temperature, augmentation, labels, source
VALUES=${VALUES:-}           # the first is the baseline, unless the sweep's own is among them
AMOUNT=${AMOUNT:-}           # images, by default 200k; not for SWEEP=images
EPOCHS=${EPOCHS:-}           # by default 100; not for SWEEP=epochs
SEEDS=${SEEDS:-0}            # each samples images of its own: 27 GPU-hours at 100 TFLOP/s
GPUS=${GPUS:-8}
STUDENT=${STUDENT:-ResNet18}
FIDELITY=${FIDELITY:-}       # 1: also measure the images, against the validation images
TAKES_ARGUMENTS=yes          # further flags of run_sweep.py
. scripts/common.sh

exec "$PYTHON" run_sweep.py --dataset imagenet --sweep "$SWEEP" --gpus "$GPUS" \
    --seeds "$(echo $SEEDS | tr ' ' ,)" ${VALUES:+--values "$(echo $VALUES | tr ' ' ,)"} \
    ${AMOUNT:+--data_amount "$AMOUNT"} ${EPOCHS:+--epochs "$EPOCHS"} \
    --model_s "$STUDENT" ${FIDELITY:+--fidelity} "$@"
