#!/bin/sh
# Fashion-MNIST, one setting of DM-KD varied over three seeds, with values that two CPU cores can carry: 6 to 18 cells
# and their images (run_sweep.py says what is to do and, after a cell, how long it takes). Students are measured on the
# holdout images. Writes results/sweeps/$SWEEP.csv, .md and .png; run again, it does only what is missing.
#   SWEEP=temperature sh scripts/sweep_fashion_mnist.sh
#   SWEEP=fidelity AMOUNT=3k sh scripts/sweep_fashion_mnist.sh --fidelity   3,000 images: enough for a Fréchet distance
set -eu
cd "$(dirname "$0")/.."
SWEEP=${SWEEP:-scale}                    # or any other of run_sweep.py's SWEEPS; "all": one after the other
SEEDS=${SEEDS:-0,1,2}
AMOUNT=${AMOUNT:-1000}                   # images
EPOCHS=${EPOCHS:-10}
DATA=${DATA:-true_dataset}
REQUIREMENTS=requirements.txt
. scripts/setup.sh

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
[ "$SWEEP" != all ] || SWEEP="scale steps fidelity teacher images epochs temperature augmentation labels source"
for NAME in $SWEEP; do
    AMOUNT_FLAG="--data_amount $AMOUNT"
    EPOCHS_FLAG="--epochs $EPOCHS"
    case $NAME in                        # a sweep varies its own flag
    images) AMOUNT_FLAG= ;;
    epochs) EPOCHS_FLAG= ;;
    esac
    "$PYTHON" run_sweep.py --sweep "$NAME" --seeds "$SEEDS" --data_root "$DATA" $AMOUNT_FLAG $EPOCHS_FLAG "$@"
done
