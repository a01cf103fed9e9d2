#!/bin/sh
# CIFAR-100, row DM-KD: the five pairs on 50K ImageNet images of the DiT, resized to 32×32. The
# images' labels are not used. Released settings: 240 epochs, batch 128, τ = 4.
# Needs the teachers (scripts/cifar100_teachers.sh) and the images (scripts/imagenet_synthesize.sh,
# or the released set).
#   PAIRS=wrn_40_2:wrn_16_1 sh scripts/cifar100_distill.sh      one pair
set -eu
cd "$(dirname "$0")/.."
IMAGES=${IMAGES:-syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0}
AMOUNT=${AMOUNT:-50k}
EPOCHS=${EPOCHS:-240}
DECAY=${DECAY:-150,180,210}              # ×0.1 after these epochs
TEMPERATURE=${TEMPERATURE:-4}
AUGMENTATION=${AUGMENTATION:-none}       # none, mixup or cutmix
SEED=${SEED:-0}
NAME=${NAME:-${AMOUNT}_${EPOCHS}epochs_seed$SEED}
MORE=${MORE:-}                           # further flags of train_student.py
. scripts/common.sh
check_pairs teacher:student

for PAIR in $PAIRS; do
    TEACHER=${PAIR%:*} STUDENT=${PAIR#*:}
    "$PYTHON" train_student.py --dataset cifar100 \
        --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" --model_s "$STUDENT" \
        --train_data "$IMAGES" --data_amount "$AMOUNT" --ignore_labels \
        --batch_size 128 --epochs "$EPOCHS" --learning_rate 0.1 --lr_decay_epochs "$DECAY" \
        --weight_decay 5e-4 -r 0 -a 1 --kd_T "$TEMPERATURE" --use_aug "$AUGMENTATION" \
        --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} ${ROW:+--row "$ROW"} \
        --experiments_dir "cifar100_$TEACHER-$STUDENT" --experiments_name "$NAME" $MORE
done
