#!/bin/sh
# ImageNet-1K, row FastDFKD: a ResNet-50 from a ResNet-50 (the paper: 68.61 %; a ResNet-18: 53.45 %;
# 140K images, 200 epochs). Settings of the method's logs: k = 50, Reptile, rounds of 100 images,
# 1,000 student steps per epoch, τ = 5, learning rate 0.1 with a cosine schedule to 0. The logs have
# 10 rounds per epoch, 400 epochs, and the images of an earlier run in addition: ROUNDS=10
# EPOCHS=400 POOL=FOLDER (such as the images of scripts/imagenet_deepinversion.sh).
# Needs the teacher (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: 7 rounds per epoch, which give the table's 140K images, batch 256, weight decay 1e-4,
# noise of 256 channels, no warm-up, no reset of the generator, no images of an earlier run.
#   ADV=1 STUDENT=ResNet18 sh scripts/imagenet_fastdfkd.sh
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-4}                          # must divide 100 and 256
TEACHER=${TEACHER:-save/models/ResNet50/resnet50.pth}
STUDENT=${STUDENT:-ResNet50}
ADV=${ADV:-0.1}                          # 1.0 for a ResNet-18
POOL=${POOL:-}
ROUNDS=${ROUNDS:-7}                      # per epoch
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
. scripts/common.sh

exec "$PYTHON" $TORCHRUN train_datafree.py --method fastdfkd --dataset imagenet \
    --path-t "$TEACHER" --model_s "$STUDENT" ${POOL:+--pool_data "$POOL"} \
    --k 50 --meta reptile --lr_g 2e-4 --lr_z 0.01 --lr_g_meta 1e-4 --lr_z_meta 5e-3 \
    --z_rounds 50 --bn 0.1 --oh 0.1 --adv "$ADV" --keep last --view resized \
    --batch 100 --rounds_per_epoch "$ROUNDS" --warmup_rounds 0 --reset_round 0 \
    --steps_per_epoch 1000 --batch_size 256 --epochs "$EPOCHS" --kd_T 5 --learning_rate 0.1 \
    --min_lr 0 --weight_decay 1e-4 --num_workers 32 --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"} --experiments_dir "imagenet_$STUDENT" \
    --experiments_name "fastdfkd_${EPOCHS}epochs_seed$SEED"
