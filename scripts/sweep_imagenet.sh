#!/bin/sh
# ImageNet-1K, one setting of DM-KD varied: RN-18 → RN-18, 200K images of s = 2, T = 100, 100 epochs, τ = 10. Samples
# what is missing, distils, and writes results/sweeps/imagenet_$SWEEP.csv, .md and .png. Run again, it does only what is
# missing; sweeps share the runs that they have in common. Needs what scripts/imagenet_synthesize.sh and
# imagenet_distill.sh need; SWEEP=teacher: NAMES="ResNet18 ResNet34 ResNet50" sh scripts/imagenet_teachers.sh.
#   SWEEP=fidelity GPUS=8 sh scripts/sweep_imagenet.sh
#   SWEEP=temperature VALUES="5 10" SEEDS="0 1 2" sh scripts/sweep_imagenet.sh
# Stated by the paper or its code: s:T of 2:100 and 4:250; RN-18 and RN-50 as teachers; 140K, 200K and 1.28M images; 100
# and 200 epochs; τ = 10; mixup and cutmix. Assumed: every other value, where the rate drops, and one seed.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SWEEP=${SWEEP:-fidelity}
SEEDS=${SEEDS:-0}                        # each samples images of its own: 27 GPU-hours at 100 TFLOP/s
GPUS=${GPUS:-8}
STUDENT=${STUDENT:-ResNet18}
FIDELITY=${FIDELITY:-}                   # 1: the images are measured as well, against the validation images
case $SWEEP in                           # the first value is the baseline
fidelity) DEFAULT="2:100 2:250 3:100 3:250 4:100 4:250" ;;
teacher) DEFAULT="ResNet18 ResNet34 ResNet50" ;;
images) DEFAULT="200k 140k 1280k" ;;
epochs) DEFAULT="100 50 200" ;;
temperature) DEFAULT="10 1 4 20" ;;
augmentation) DEFAULT="none mixup cutmix" ;;
labels) DEFAULT="1:0 0:1" ;;
source) DEFAULT="generated real" ;;
*) echo "error: no sweep $SWEEP: the case at the top of this script has them" >&2; exit 2 ;;
esac
VALUES=${VALUES:-$DEFAULT}

set --
for SEED in $SEEDS; do
    for VALUE in $VALUES; do
        SCALE=2 STEPS=100 NETWORK=ResNet18 AMOUNT=200k EPOCHS=100 TEMPERATURE=10 AUGMENTATION=none
        WEIGHTS=1:0 SOURCE=generated
        case $SWEEP in
        fidelity) SCALE=${VALUE%:*} STEPS=${VALUE#*:} ;;
        teacher) NETWORK=$VALUE ;;
        images) AMOUNT=$VALUE ;;
        epochs) EPOCHS=$VALUE ;;
        temperature) TEMPERATURE=$VALUE ;;
        augmentation) AUGMENTATION=$VALUE ;;
        labels) WEIGHTS=$VALUE ;;
        source) SOURCE=$VALUE ;;
        esac
        TEACHER=save/models/$NETWORK/$(echo "$NETWORK" | tr 'A-Z' 'a-z').pth
        IMAGES=real
        if [ "$SOURCE" = generated ]; then
            IMAGES=syn_dataset/DiT-XL-2-256_ddpm_s${SCALE}_T${STEPS}_seed$SEED
            SCALE=$SCALE STEPS=$STEPS SEED=$SEED IMAGES_PER_CLASS=${AMOUNT%k} GPUS=$GPUS SAVE_DIR=$IMAGES \
                sh scripts/imagenet_synthesize.sh
            if [ -n "$FIDELITY" ] && [ ! -f "$IMAGES/fidelity_imagenet_$NETWORK.json" ]; then
                "$PYTHON" evaluate_images.py --dataset imagenet --path-t "$TEACHER" --model_t "$NETWORK" \
                    --images "$IMAGES" --real test
            fi
        fi
        NAME=sweep_${NETWORK}_$(basename "$IMAGES")_${AMOUNT}x${EPOCHS}_tau${TEMPERATURE}_$AUGMENTATION
        NAME=${NAME}_a${WEIGHTS%:*}_r${WEIGHTS#*:}_seed$SEED
        TEACHER=$TEACHER STUDENT=$STUDENT IMAGES=$IMAGES AMOUNT=$AMOUNT EPOCHS=$EPOCHS TEMPERATURE=$TEMPERATURE \
            DECAY=$((EPOCHS * 3 / 10)),$((EPOCHS * 6 / 10)),$((EPOCHS * 9 / 10)) AUGMENTATION=$AUGMENTATION SEED=$SEED \
            GPUS=$GPUS NAME=$NAME MORE="-a ${WEIGHTS%:*} -r ${WEIGHTS#*:} --table sweeps" sh scripts/imagenet_distill.sh
        set -- "$@" "$VALUE=save/student_model/imagenet_$STUDENT/$NAME"
    done
done
"$PYTHON" -m tools.sweeps "results/sweeps/imagenet_$SWEEP" "$SWEEP" "$@"
