#!/bin/sh
# ImageNet-1K: distils a student on DiT images and evaluates it on the 50,000 real validation images every epoch.
# Needs the images (scripts/imagenet_synthesize.sh, or the released set), a teacher (scripts/imagenet_teachers.sh) and the
# validation set (scripts/imagenet_prepare.sh). Run again, it goes on from its last checkpoint.
#   GPUS=1 sh scripts/imagenet_distill.sh                                     one GPU
#   NODES=2 NODE=0 MASTER=10.0.0.1:29500 sh scripts/imagenet_distill.sh       the first of two machines (NODE=1: the second)
# The paper's tables train 200 epochs; its code does not say when the rate drops: EPOCHS=200 DECAY=60,120,180 is assumed.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${GPUS:-8}                          # processes on this machine
NODES=${NODES:-1}                        # machines
NODE=${NODE:-0}                          # this machine's number
MASTER=${MASTER:-127.0.0.1:29500}        # address of machine 0
TEACHER=${TEACHER:-save/models/ResNet18/resnet18.pth}
STUDENT=${STUDENT:-ResNet18}
IMAGES=${IMAGES:-syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0}   # or syn_dataset/s2_st100_200k.txt, the released list
AMOUNT=${AMOUNT:-200k}
EPOCHS=${EPOCHS:-100}
DECAY=${DECAY:-30,60,90}
TEMPERATURE=${TEMPERATURE:-10}
AUGMENTATION=${AUGMENTATION:-none}       # none, mixup or cutmix
SEED=${SEED:-0}
NAME=${NAME:-s2_T100_${AMOUNT}_${EPOCHS}epochs_seed$SEED}
MORE=${MORE:-}                           # further flags of train_student.py

exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --node_rank "$NODE" --nproc_per_node "$GPUS" \
    --master_addr "${MASTER%:*}" --master_port "${MASTER##*:}" \
    train_student.py --dataset imagenet --path-t "$TEACHER" --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" \
    --batch_size 256 --epochs "$EPOCHS" --learning_rate 0.1 --lr_decay_epochs "$DECAY" --weight_decay 1e-4 \
    -r 0 -a 1 --kd_T "$TEMPERATURE" --use_aug "$AUGMENTATION" --num_workers 32 --seed "$SEED" --resume \
    --experiments_dir "imagenet_$STUDENT" --experiments_name "$NAME" $MORE
