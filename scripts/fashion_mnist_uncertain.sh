#!/bin/sh
# Do images on which a student is uncertain teach more? A round of Deliberate Practice (arXiv
# 2502.15588) on Fashion-MNIST, ResNet20 → ResNet8. Every seed has a pool of generated images and
# four students with the same image-steps: on the first KEPT images of the pool (`random`), on as
# many on which a student is uncertain or certain, and on the whole pool. That student is the one on
# `random` images of the next seed, which has not seen the pool. An hour or more on two CPU cores.
# Writes results/study/uncertain.csv, .md and .png.
set -eu
cd "$(dirname "$0")/.."
SEEDS=${SEEDS:-0 1 2}            # at least two
SETS=${SETS:-"random uncertain certain pool"}
POOL=${POOL:-16000}              # images
KEPT=${KEPT:-8000}
EPOCHS=${EPOCHS:-16}             # on the kept images
SAMPLER=${SAMPLER:-dpmsolver++}
SPACING=${SPACING:-leading}
STEPS=${STEPS:-5}                # T
BATCH=${BATCH:-32}
AMP=${AMP:-bf16}                 # fast where CPUs have AMX, else AMP=off
SPLIT=${SPLIT:-holdout}          # choose on holdout, report on test: files end in _test
DATA=${DATA:-true_dataset}
GENERATOR=${GENERATOR:-save/models/fashion_mnist/DiT-6x160-2}
TEACHER=${TEACHER:-save/models/fashion_mnist/resnet20/resnet20_latest.pth}
OUT=${OUT:-results/study/uncertain$([ "$SPLIT" = holdout ] || echo "_$SPLIT")}
RUNS=save/student_model/uncertain
case $SEEDS in
*,*) echo "error: SEEDS is $SEEDS: separate them by blanks, SEEDS='0 1'" >&2; exit 2 ;;
*" "*) ;;
*) echo "error: SEEDS is $SEEDS: at least two are needed, SEEDS='0 1'" >&2; exit 2 ;;
esac
case $POOL$KEPT$EPOCHS in
*[!0-9]*)
    echo "error: POOL is $POOL, KEPT $KEPT, EPOCHS $EPOCHS: give whole numbers, KEPT=8000" >&2
    exit 2 ;;
esac
[ $((EPOCHS * KEPT % POOL)) = 0 ] || {
    echo "error: $POOL images have no whole number of epochs in $EPOCHS of $KEPT images" >&2
    exit 2
}
REQUIREMENTS=requirements.txt
. scripts/setup.sh

# pool SEED: the folder of its images
pool() { echo "syn_dataset/uncertain_${SAMPLER}_s1_T${STEPS}_${SPACING}_seed$1"; }

# student SET SEED IMAGES AMOUNT: distils a student on so many images
student() {
    "$PYTHON" train_student.py --dataset fashion_mnist --data_root "$DATA" --val_split "$SPLIT" \
        --path-t "$TEACHER" --model_s resnet8 --train_data "$3" --data_amount "$4" \
        --epochs $((EPOCHS * KEPT / $4)) --batch_size "$BATCH" --learning_rate 0.05 \
        --schedule cosine --warmup_epochs "$(awk "BEGIN { print $KEPT / $4 }")" \
        --weight_decay 5e-4 --kd_T 4 --use_aug mixup --amp "$AMP" --seed "$2" \
        --table uncertain --experiments_dir uncertain --experiments_name "$1_seed$2_$SPLIT" --resume
}

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
for seed in $SEEDS; do
    "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler "$SAMPLER" --cfg-scale 1 \
        --timestep_spacing "$SPACING" --num-sampling-steps "$STEPS" --data_amount "$POOL" \
        --batch_size 100 --seed "$seed" --save_dir "$(pool "$seed")"
    student random "$seed" "$(pool "$seed")" "$KEPT"
done

set -- $SEEDS
for seed in $SEEDS; do
    shift
    next=${1:-${SEEDS%% *}}
    for set in $SETS; do
        images=$(pool "$seed")
        case $set in
        random) ;;
        pool) student pool "$seed" "$images" "$POOL" ;;
        uncertain | certain)
            "$PYTHON" -m tools.uncertain_images "$images" "${images}_$set.txt" \
                --data_amount "$KEPT" --dataset fashion_mnist \
                $([ $set = uncertain ] || echo --certain) \
                --student "$RUNS/random_seed${next}_$SPLIT/resnet8_latest.pth"
            student "$set" "$seed" "${images}_$set.txt" "$KEPT" ;;
        *) echo "error: no set $set: see SETS in $0" >&2; exit 2 ;;
        esac
    done
done

set --
for name in $SETS; do
    for seed in $SEEDS; do
        set -- "$@" "$name=$RUNS/${name}_seed${seed}_$SPLIT"
    done
done
"$PYTHON" -m tools.sweeps "$OUT" "images of the student" "$@"
