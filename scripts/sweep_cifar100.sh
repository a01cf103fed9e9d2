#!/bin/sh
# CIFAR-100, one setting of DM-KD varied: RN-34 → RN-18, 50K ImageNet images of s = 2, T = 100, whose labels play no
# part, 240 epochs, τ = 4. Samples what is missing, distils, writes results/sweeps/cifar100_$SWEEP.csv, .md and .png.
# Run again, it does only what is missing. Needs the teachers (scripts/cifar100_teachers.sh) and, to sample, DiT-XL/2.
#   SWEEP=temperature SEEDS="0 1 2" sh scripts/sweep_cifar100.sh
# Stated by the paper or its code: s:T of 2:100 and 4:250; 50K images, 240 epochs, τ = 4; RN-34 and VGG-11 as teachers
# of this student; mixup and cutmix. Assumed: every other value, and where the rate drops in other than 240 epochs.
# There are no hard labels to compare with: the images' classes are ImageNet's.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SWEEP=${SWEEP:-fidelity}
SEEDS=${SEEDS:-0}                        # each samples images of its own: 7 GPU-hours at 100 TFLOP/s
GPUS=${GPUS:-1}                          # for sampling
STUDENT=${STUDENT:-resnet18}
case $SWEEP in                           # the first value is the baseline
fidelity) DEFAULT="2:100 2:250 3:100 3:250 4:100 4:250" ;;
teacher) DEFAULT="resnet34 wrn_40_2 vgg11" ;;
images) DEFAULT="50k 100k 200k" ;;
epochs) DEFAULT="240 120 480" ;;
temperature) DEFAULT="4 1 10 20" ;;
augmentation) DEFAULT="none mixup cutmix" ;;
source) DEFAULT="generated real" ;;
*) echo "error: no sweep $SWEEP: the case at the top of this script has them" >&2; exit 2 ;;
esac
VALUES=${VALUES:-$DEFAULT}

set --
for SEED in $SEEDS; do
    for VALUE in $VALUES; do
        SCALE=2 STEPS=100 TEACHER=resnet34 AMOUNT=50k EPOCHS=240 TEMPERATURE=4 AUGMENTATION=none SOURCE=generated
        case $SWEEP in
        fidelity) SCALE=${VALUE%:*} STEPS=${VALUE#*:} ;;
        teacher) TEACHER=$VALUE ;;
        images) AMOUNT=$VALUE ;;
        epochs) EPOCHS=$VALUE ;;
        temperature) TEMPERATURE=$VALUE ;;
        augmentation) AUGMENTATION=$VALUE ;;
        source) SOURCE=$VALUE ;;
        esac
        IMAGES=real
        if [ "$SOURCE" = generated ]; then
            IMAGES=syn_dataset/DiT-XL-2-256_ddpm_s${SCALE}_T${STEPS}_seed$SEED
            SCALE=$SCALE STEPS=$STEPS SEED=$SEED IMAGES_PER_CLASS=${AMOUNT%k} GPUS=$GPUS SAVE_DIR=$IMAGES \
                sh scripts/imagenet_synthesize.sh
        fi
        NAME=sweep_$(basename "$IMAGES")_${AMOUNT}x${EPOCHS}_tau${TEMPERATURE}_${AUGMENTATION}_seed$SEED
        PAIRS=$TEACHER:$STUDENT IMAGES=$IMAGES AMOUNT=$AMOUNT EPOCHS=$EPOCHS SEED=$SEED NAME=$NAME \
            DECAY=$((EPOCHS * 5 / 8)),$((EPOCHS * 3 / 4)),$((EPOCHS * 7 / 8)) \
            MORE="--kd_T $TEMPERATURE --use_aug $AUGMENTATION --table sweeps" sh scripts/cifar100_distill.sh
        set -- "$@" "$VALUE=save/student_model/cifar100_$TEACHER-$STUDENT/$NAME"
    done
done
"$PYTHON" -m tools.sweeps "results/sweeps/cifar100_$SWEEP" "$SWEEP" "$@"
