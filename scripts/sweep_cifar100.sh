#!/bin/sh
# CIFAR-100: varies one setting of DM-KD: RN-34 → RN-18, 50K ImageNet images of s = 2, T = 100,
# whose labels are not used, 240 epochs, τ = 4. Samples what is missing, distils, and writes
# results/sweeps/cifar100_$SWEEP.csv, .md and .png. Run it again to continue. Values and baselines,
# with what the paper states and what is assumed: VALUES in run_sweep.py.
# Needs the teachers (scripts/cifar100_teachers.sh) and, to sample, DiT-XL/2.
#   SWEEP=temperature SEEDS="0 1 2" sh scripts/sweep_cifar100.sh
set -eu
cd "$(dirname "$0")/.."
SWEEP=${SWEEP:-fidelity}     # or teacher, images, epochs, temperature, augmentation, source
VALUES=${VALUES:-}           # the first is the baseline, unless the sweep's own is among them
AMOUNT=${AMOUNT:-}           # images, by default 50k; not for SWEEP=images
EPOCHS=${EPOCHS:-}           # by default 240; not for SWEEP=epochs
SEEDS=${SEEDS:-0}            # each samples images of its own: 7 GPU-hours at 100 TFLOP/s
GPUS=${GPUS:-1}              # for sampling
STUDENT=${STUDENT:-resnet18}
TAKES_ARGUMENTS=yes          # further flags of run_sweep.py
. scripts/common.sh

exec "$PYTHON" run_sweep.py --dataset cifar100 --sweep "$SWEEP" --gpus "$GPUS" \
    --seeds "$(echo $SEEDS | tr ' ' ,)" ${VALUES:+--values "$(echo $VALUES | tr ' ' ,)"} \
    ${AMOUNT:+--data_amount "$AMOUNT"} ${EPOCHS:+--epochs "$EPOCHS"} \
    --model_s "$STUDENT" "$@"
