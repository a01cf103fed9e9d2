#!/bin/sh
# Do images on which a student is uncertain teach more? A round of Deliberate Practice (arXiv
# 2502.15588) on Fashion-MNIST, ResNet20 → ResNet8. A first student is trained on half of a pool of
# generated images. Others, from scratch, on as many of the pool that the first is uncertain or
# certain of, and on the whole pool with the same image-steps. Half an hour or more for a seed on
# two CPU cores. Writes results/study/uncertain.csv, .md and .png.
set -eu
cd "$(dirname "$0")/.."
SEEDS=${SEEDS:-0 1 2}
POOL=${POOL:-16000}              # images
KEPT=${KEPT:-8000}
EPOCHS=${EPOCHS:-16}             # on the kept images
SETS=${SETS:-"first uncertain certain pool"}
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
REQUIREMENTS=requirements.txt
. scripts/setup.sh

# student NAME IMAGES AMOUNT: distils a student on so many images, whatever their number in as many
# image-steps
student() {
    "$PYTHON" train_student.py --dataset fashion_mnist --data_root "$DATA" --val_split "$SPLIT" \
        --path-t "$TEACHER" --model_s resnet8 --train_data "$2" --data_amount "$3" \
        --epochs $((EPOCHS * KEPT / $3)) --batch_size "$BATCH" --learning_rate 0.05 \
        --schedule cosine --warmup_epochs "$(awk "BEGIN { print $KEPT / $3 }")" \
        --weight_decay 5e-4 --kd_T 4 --use_aug mixup --amp "$AMP" --seed "$seed" \
        --table uncertain --experiments_dir uncertain --experiments_name "$1" --resume
}

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
for seed in $SEEDS; do
    pool=syn_dataset/uncertain_${SAMPLER}_T${STEPS}_${POOL}_seed$seed
    "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler "$SAMPLER" --cfg-scale 1 \
        --timestep_spacing "$SPACING" --num-sampling-steps "$STEPS" --data_amount "$POOL" \
        --batch_size 100 --seed "$seed" --save_dir "$pool"
    first=first_seed${seed}_$SPLIT
    student "$first" "$pool" "$KEPT"
    for set in $SETS; do
        case $set in
        first) ;;
        pool) student "pool_seed${seed}_$SPLIT" "$pool" "$POOL" ;;
        uncertain | certain)
            "$PYTHON" -m tools.uncertain_images "$pool" "${pool}_$set.txt" --data_amount "$KEPT" \
                --dataset fashion_mnist $([ $set = uncertain ] || echo --certain) \
                --student "save/student_model/uncertain/$first/resnet8_latest.pth"
            student "${set}_seed${seed}_$SPLIT" "${pool}_$set.txt" "$KEPT" ;;
        *) echo "error: no set $set: see SETS in $0" >&2; exit 2 ;;
        esac
    done
done

set --
for name in $SETS; do
    for seed in $SEEDS; do
        set -- "$@" "$name=save/student_model/uncertain/${name}_seed${seed}_$SPLIT"
    done
done
"$PYTHON" -m tools.sweeps "$OUT" "images of the student" "$@"
