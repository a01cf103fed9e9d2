#!/bin/sh
# A study on Fashion-MNIST, ResNet20 → ResNet8: the cost of sampling, guidance, teachers and losses.
# 128,000 image-steps of the student per cell, evaluated on SPLIT. Writes results/study/.
# Ten hours or more on two CPU cores; run it again to continue. What has been run and what has not:
# results/claims.md.
#   STAGES="fidelity teachers" sh scripts/study_fashion_mnist.sh     some of the stages
#   STAGES=frontier SEEDS=0 sh scripts/study_fashion_mnist.sh        fewer seeds
set -eu
cd "$(dirname "$0")/.."
STAGES=${STAGES:-"spacing frontier paper interval fidelity teachers losses"}
SEEDS=${SEEDS:-0,1,2}
JOBS=${JOBS:-2}                  # students at a time, of one thread each
BATCH=${BATCH:-32}
AMP=${AMP:-bf16}                 # of the student; fast where CPUs have AMX, else AMP=off
AMOUNT=${AMOUNT:-8000}           # images, where a stage does not vary them
EPOCHS=${EPOCHS:-16}
SAMPLER=${SAMPLER:-dpmsolver++}  # of the stages after `paper`
SPACING=${SPACING:-leading}      # of its timesteps; SPACING=- for its usual one
STEPS=${STEPS:-5}                # T
KINDS=${KINDS:-"ddim:leading dpmsolver++:leading"}       # samplers and spacings of the frontier
FRONTIER_STEPS=${FRONTIER_STEPS:-"2 3 5 8 12 25"}        # T
BUDGETS=${BUDGETS:-"8k:16:1 16k:8:0.5 32k:4:0.25 64k:2:0.125"}
SPLIT=${SPLIT:-holdout}          # choose on holdout, report on test: files end in _test
DATA=${DATA:-true_dataset}
OUT=${OUT:-results/study}
WEIGHTS=save/models/fashion_mnist
TEACHERS=${TEACHERS:-save/models/study}
SUFFIX=$([ "$SPLIT" = holdout ] || echo "_$SPLIT")
REQUIREMENTS=requirements.txt
. scripts/setup.sh

# sweep NAME FILE FLAGS…: one sweep; its data, table and plot are $OUT/FILE.csv, .md and .png
sweep() {
    name=$1 file=$2$SUFFIX
    shift 2
    "$PYTHON" run_sweep.py --sweep "$name" --name "$file" --out "$OUT" --seeds "$SEEDS" \
        --jobs "$JOBS" --batch_size "$BATCH" --amp "$AMP" --val_split "$SPLIT" --data_root "$DATA" \
        --device cpu "$@"
}

# join WORD…: the words with commas between them
join() { echo "$*" | tr ' ' ,; }

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
for stage in $STAGES; do
    set -- --data_amount "$AMOUNT" --epochs "$EPOCHS"
    sampling="--sampler $SAMPLER --timestep_spacing $SPACING"
    case $stage in
    # Where the few timesteps of a sampler should be
    spacing) sweep spacing spacing "$@" --baseline ddim:leading:5 --values "$(join $(
        for steps in 2 3 5; do
            echo ddim:leading:$steps ddim:trailing:$steps
            echo dpmsolver++:-:$steps dpmsolver++:leading:$steps
        done))" ;;
    # Accuracy over the cost of sampling: images, epochs and epochs of warm-up are 8k:16:1 to
    # 64k:2:0.125
    frontier) sweep frontier frontier --values "$(join $(
        for budget in $BUDGETS; do
            for steps in $FRONTIER_STEPS; do
                for kind in $KINDS; do echo "$kind:$steps:$budget"; done
            done
        done))" ;;
    # The paper's sampling
    paper) sweep steps paper "$@" --sampler ddpm --cfg_scale 2 --values 100 ;;
    # Guidance throughout and in the middle of the chain only
    interval) sweep interval interval "$@" $sampling --values "$(join 1:-:$STEPS 1.5:-:$STEPS \
        2:-:$STEPS 1.5:0.2-0.8:$STEPS 2:0.2-0.8:$STEPS 2:0.4-0.8:$STEPS)" ;;
    # Does low fidelity teach better?
    fidelity) sweep scale fidelity "$@" $sampling --num_sampling_steps "$STEPS" \
        --values 1,1.5,2,4 --fidelity ;;
    # Do weaker teachers teach better? Five teachers, on generated and on real images
    teachers)
        for epochs in 1 2 4; do
            OMP_NUM_THREADS=1 "$PYTHON" train_teacher.py --dataset fashion_mnist \
                --data_root "$DATA" --seed 0 --model resnet20 --epochs $epochs --batch_size 128 \
                --learning_rate 0.1 --schedule cosine --warmup_epochs 0.3 --weight_decay 5e-4 \
                --resume --device cpu --save_dir "$TEACHERS/resnet20_${epochs}epochs"
        done
        VALUES=$(join "$WEIGHTS/resnet8/resnet8_latest.pth" $(for epochs in 1 2 4; do
            echo "$TEACHERS/resnet20_${epochs}epochs/resnet20_latest.pth"; done) \
            "$WEIGHTS/resnet20/resnet20_latest.pth")
        sweep teacher teachers "$@" $sampling --num_sampling_steps "$STEPS" --values "$VALUES"
        sweep teacher teachers_real "$@" --values "$VALUES" --train_data real ;;
    # Other distillation losses, on generated and on real images
    losses)
        sweep loss losses "$@" $sampling --num_sampling_steps "$STEPS"
        sweep loss losses_real "$@" --train_data real ;;
    *) echo "error: no stage $stage: see STAGES in $0" >&2; exit 2 ;;
    esac
done
