#!/bin/sh
# Fashion-MNIST, row Digits+KD: KD on real images of other classes, as Place365+KD is for ImageNet:
# 1,600 of scikit-learn's handwritten digits (pip install scikit-learn), then a ResNet-8 on them
# from the shipped ResNet-20. 128,000 image-steps. The settings are those of the best trial on
# holdout (scripts/fashion_mnist_trials.sh).
set -eu
cd "$(dirname "$0")/.."
EPOCHS=${EPOCHS:-80}
AMP=${AMP:-auto}                         # AMP=bf16 is fast on CPUs with AMX
SEED=${SEED:-0}
NAME=${NAME:-digits_128k_seed$SEED}
. scripts/common.sh

"$PYTHON" -m tools.digits true_dataset/digits
exec "$PYTHON" train_student.py --dataset fashion_mnist \
    --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --model_s resnet8 \
    --train_data true_dataset/digits --data_amount 1600 --ignore_labels --epochs "$EPOCHS" \
    --batch_size 32 --learning_rate 0.05 --schedule cosine --warmup_epochs 1 \
    --weight_decay 5e-4 --kd_T 4 --use_aug cutmix --amp "$AMP" --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"} --row Digits+KD \
    --experiments_dir fashion_mnist --experiments_name "$NAME"
