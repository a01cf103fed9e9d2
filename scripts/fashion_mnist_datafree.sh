#!/bin/sh
# Fashion-MNIST, rows DeepInv, DAFL, DFQ and FastDFKD: a ResNet-8 from the shipped ResNet-20, with
# images synthesised during the training from the teacher alone. 128,000 image-steps of the student;
# as many images as take about 20 minutes on one core (DAFL: 13). The settings are those of the best
# trial on holdout (scripts/fashion_mnist_trials.sh).
#   METHOD=dfq sh scripts/fashion_mnist_datafree.sh
set -eu
cd "$(dirname "$0")/.."
METHOD=${METHOD:-dafl}                   # or dfq, fastdfkd, deepinversion
EPOCHS=${EPOCHS:-16}
AMP=${AMP:-auto}                         # AMP=bf16 is fast on CPUs with AMX
SEED=${SEED:-0}
NAME=${NAME:-${METHOD}_128k_seed$SEED}
. scripts/common.sh

# --batch_size, --learning_rate, --kd_T: of the student; the others: of the images
case $METHOD in
dafl) set -- --steps_per_epoch 125 --batch_size 64 --kd_T 1 ;;
dfq) set -- --steps_per_epoch 250 --batch_size 32 --learning_rate 0.05 --kd_T 1 \
    --balance 5 --student_steps 2 ;;
fastdfkd) set -- --steps_per_epoch 250 --batch_size 32 --learning_rate 0.1 --kd_T 4 \
    --batch 64 --k 5 --rounds_per_epoch 15 --warmup_rounds 10 --reset_round 0 ;;
deepinversion) set -- --steps_per_epoch 125 --batch_size 64 \
    --batch 64 --steps 200 --tv 0.03 --decay cosine ;;
*) echo "error: METHOD is $METHOD: dafl, dfq, fastdfkd or deepinversion" >&2; exit 2 ;;
esac
exec "$PYTHON" train_datafree.py --method "$METHOD" --dataset fashion_mnist \
    --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --model_s resnet8 \
    --epochs "$EPOCHS" --warmup_epochs 1 "$@" --amp "$AMP" --seed "$SEED" --resume \
    ${TABLE:+--table "$TABLE"} --experiments_dir fashion_mnist --experiments_name "$NAME"
