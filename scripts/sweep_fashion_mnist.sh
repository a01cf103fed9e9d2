#!/bin/sh
# Fashion-MNIST: varies one setting of DM-KD over three seeds, with values that two CPU cores can
# carry: 6 to 18 cells and their images. The sweep prints what there is to do and, after each cell,
# how long it will take. Students are evaluated on the holdout images. Writes
# results/sweeps/$SWEEP.csv, .md and .png. Run it again to continue.
#   SWEEP=temperature sh scripts/sweep_fashion_mnist.sh
#   SWEEP=fidelity AMOUNT=3k sh scripts/sweep_fashion_mnist.sh --fidelity
#       3,000 images: enough for a Fréchet distance
set -eu
cd "$(dirname "$0")/.."
SWEEP=${SWEEP:-scale}                    # a sweep of run_sweep.py, or "all": one after the other
SEEDS=${SEEDS:-0,1,2}
AMOUNT=${AMOUNT:-1000}                   # images
EPOCHS=${EPOCHS:-10}
DATA=${DATA:-true_dataset}
TAKES_ARGUMENTS=yes                      # further flags of run_sweep.py
REQUIREMENTS=requirements.txt
. scripts/setup.sh

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
if [ "$SWEEP" = all ]; then
    SWEEP="scale steps fidelity teacher images epochs temperature augmentation labels source"
fi
for NAME in $SWEEP; do
    FIXED="--data_amount $AMOUNT --epochs $EPOCHS"
    case $NAME in                        # a sweep varies its own flags
    images) FIXED="--epochs $EPOCHS" ;;
    epochs) FIXED="--data_amount $AMOUNT" ;;
    frontier) FIXED= ;;
    esac
    "$PYTHON" run_sweep.py --sweep "$NAME" --seeds "$SEEDS" --data_root "$DATA" $FIXED "$@"
done
