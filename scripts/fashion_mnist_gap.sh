#!/bin/sh
# What the generated images lack: the quickstart with three seeds, and the same student, recipe and number of images
# with real ones. About 30 minutes on two CPU cores. The quickstart's settings can be given (SPLIT=holdout). The runs stand in
# the Fashion-MNIST table of make_tables.py.
set -eu
cd "$(dirname "$0")/.."
SPLIT=${SPLIT:-test}
SEEDS=${SEEDS:-0 1 2}

set --
for seed in $SEEDS; do
    for source in generated real; do
        run=gap_${source}_seed${seed}_$SPLIT
        RUN=$run SOURCE=$source SEED=$seed SPLIT=$SPLIT TABLE=fashion_mnist sh scripts/quickstart.sh
        set -- "$@" "save/student_model/quickstart/$run"
    done
done
.venv/bin/python -m tools.spread "$@"
