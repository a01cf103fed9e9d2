#!/bin/sh
# ImageNet-1K, row DM-KD: distils a student on DiT images and evaluates it on the 50,000 real
# validation images after every epoch. Needs the images (scripts/imagenet_synthesize.sh, or the
# released set), a teacher (scripts/imagenet_teachers.sh) and the validation set
# (scripts/imagenet_prepare.sh). Run it again to resume from the last checkpoint.
# The defaults are the released README's step. The paper's tables train for 200 epochs. Assumed:
# where the learning rate drops then, DECAY=60,120,180.
#   GPUS=1 sh scripts/imagenet_distill.sh                                 one GPU
#   NODES=2 NODE=0 MASTER=10.0.0.1:29500 sh scripts/imagenet_distill.sh   first of two machines
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-8}                          # processes on this machine
TEACHER=${TEACHER:-save/models/ResNet18/resnet18.pth}
STUDENT=${STUDENT:-ResNet18}
# A folder, or a list: syn_dataset/s2_st100_200k.txt is the released one.
IMAGES=${IMAGES:-syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0}
AMOUNT=${AMOUNT:-200k}
EPOCHS=${EPOCHS:-100}
DECAY=${DECAY:-30,60,90}                 # ×0.1 after these epochs
TEMPERATURE=${TEMPERATURE:-10}
AUGMENTATION=${AUGMENTATION:-none}       # none, mixup or cutmix
SEED=${SEED:-0}
NAME=${NAME:-s2_T100_${AMOUNT}_${EPOCHS}epochs_seed$SEED}
MORE=${MORE:-}                           # further flags of train_student.py
. scripts/common.sh

exec "$PYTHON" $TORCHRUN train_student.py --dataset imagenet \
    --path-t "$TEACHER" --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" \
    --batch_size 256 --epochs "$EPOCHS" --learning_rate 0.1 --lr_decay_epochs "$DECAY" \
    --weight_decay 1e-4 -r 0 -a 1 --kd_T "$TEMPERATURE" --use_aug "$AUGMENTATION" \
    --num_workers 32 --seed "$SEED" --resume ${TABLE:+--table "$TABLE"} ${ROW:+--row "$ROW"} \
    --experiments_dir "imagenet_$STUDENT" --experiments_name "$NAME" $MORE
