#!/bin/sh
# ImageNet-1K, the row "FastDFKD" (the paper: 68.61 % for a ResNet50 from a ResNet50, 53.45 % for a ResNet18; 140K images, 200
# epochs), with the settings of the method's logs: k = 50, Reptile, rounds of 100 images, 1,000 steps of the student an epoch,
# τ = 5, rate 0.1 by a cosine to 0. The logs have 10 rounds an epoch, 400 epochs, and images of an earlier run besides:
# ROUNDS=10 EPOCHS=400 POOL=FOLDER (such as the images of scripts/imagenet_deepinversion.sh). Needs the teacher
# (scripts/imagenet_teachers.sh) and the validation set.
# Assumed: 7 rounds an epoch, which make the table's 140K images, batch 256, weight decay 1e-4, noise of 256 channels, no
# warm-up, no reset of the generator.
#   ADV=1 TEACHER=save/models/ResNet18/resnet18.pth STUDENT=ResNet18 sh scripts/imagenet_fastdfkd.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${GPUS:-4}                          # a divisor of 100, the images of a round
TEACHER=${TEACHER:-save/models/ResNet50/resnet50.pth}
STUDENT=${STUDENT:-ResNet50}
ADV=${ADV:-0.1}                          # 1.0 of a ResNet18
POOL=${POOL:-}
ROUNDS=${ROUNDS:-7}                      # an epoch
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}

exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    train_datafree.py --method fastdfkd --dataset imagenet --path-t "$TEACHER" --model_s "$STUDENT" ${POOL:+--pool_data "$POOL"} \
    --k 50 --meta reptile --lr_g 2e-4 --lr_z 0.01 --lr_g_meta 1e-4 --lr_z_meta 5e-3 --z_rounds 50 --bn 0.1 --oh 0.1 --adv "$ADV" \
    --keep last --view resized --batch 100 --rounds_per_epoch "$ROUNDS" --warmup_rounds 0 --reset_round 0 --steps_per_epoch 1000 \
    --batch_size 256 --epochs "$EPOCHS" --kd_T 5 --learning_rate 0.1 --min_lr 0 --weight_decay 1e-4 --num_workers 32 \
    --seed "$SEED" --resume --experiments_dir "imagenet_$STUDENT" --experiments_name "fastdfkd_${EPOCHS}epochs_seed$SEED"
