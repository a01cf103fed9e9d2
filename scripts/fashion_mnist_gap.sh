#!/bin/sh
# What generated images lack compared with real ones: the quickstart with three seeds, and the same
# student, recipe and number of images with real images. About 40 minutes on two CPU cores.
# The quickstart's variables can be given (SPLIT=holdout), with a DIR for another recipe.
set -eu
cd "$(dirname "$0")/.."
SPLIT=${SPLIT:-test}
SEEDS=${SEEDS:-0 1 2}
DIR=${DIR:-gap}                  # folder of the runs below save/student_model
REQUIREMENTS=requirements.txt
. scripts/setup.sh

set --
for seed in $SEEDS; do
    for source in generated real; do
        run=${source}_seed${seed}_$SPLIT
        DIR=$DIR RUN=$run SOURCE=$source SEED=$seed SPLIT=$SPLIT sh scripts/quickstart.sh
        set -- "$@" "save/student_model/$DIR/$run"
    done
done
"$PYTHON" -m tools.spread "$@"
