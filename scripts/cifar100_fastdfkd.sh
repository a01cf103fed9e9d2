#!/bin/sh
# CIFAR-100, row FastDFKD: the five pairs with the published settings, k = 10 steps per round, 20
# warm-up rounds and 200 epochs (the paper: 74.34, 67.44, 54.02, 63.91 and 65.12 %). Needs the
# teachers (scripts/cifar100_teachers.sh).
#   K=5 sh scripts/cifar100_fastdfkd.sh      fewer steps, with learning rates of their own
set -eu
cd "$(dirname "$0")/.."
# teacher:student:adv:oh
PAIRS=${PAIRS:-"resnet34:resnet18:1.33:0.5 vgg11:resnet18:1.0:0.5
    wrn_40_2:wrn_16_1:1.1:0.4 wrn_40_2:wrn_40_1:1.1:0.4 wrn_40_2:wrn_16_2:1.1:0.4"}
K=${K:-10}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
case $K in
10) NAME=fastdfkd_${EPOCHS}epochs_seed$SEED ;;
*) NAME=fastdfkd_k${K}_${EPOCHS}epochs_seed$SEED ;;
esac
. scripts/common.sh
check_pairs teacher:student:adv:oh

for PAIR in $PAIRS; do
    IFS=: read -r TEACHER STUDENT ADV OH <<END
$PAIR
END
    "$PYTHON" train_datafree.py --method fastdfkd --k "$K" --adv "$ADV" --oh "$OH" \
        --dataset cifar100 --path-t "save/models/cifar100/$TEACHER/${TEACHER}_latest.pth" \
        --model_s "$STUDENT" --epochs "$EPOCHS" --seed "$SEED" --resume \
        ${TABLE:+--table "$TABLE"} --experiments_dir "cifar100_$TEACHER-$STUDENT" \
        --experiments_name "$NAME"
done
