#!/bin/sh
# Fashion-MNIST: three trials of every method on `holdout`, which choose the settings of scripts/cells/fashion_mnist.txt. The
# teacher is the shipped ResNet20, the student the quickstart's ResNet8; a trial is 32,000 image-steps of the student, half
# of a cell's. Where a trial says nothing, the settings are the published ones. One to eight minutes of one core each;
# finished ones are left alone. results/fashion_mnist_methods.md has the figures.
#   METHODS=dfq TRIALS=a sh scripts/fashion_mnist_trials.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
METHODS=${METHODS:-"dm-kd one-image deepinversion dafl dfq fastdfkd"}
TRIALS=${TRIALS:-"a b c"}
TEACHER=${TEACHER:-save/models/fashion_mnist/resnet20/resnet20_latest.pth}
GENERATOR=${GENERATOR:-save/models/fashion_mnist/DiT-6x160-2}
IMAGES=${IMAGES:-3200}                   # of dm-kd and one-image
EPOCHS=${EPOCHS:-10}
STEPS=${STEPS:-50}                       # of the student an epoch, of 64 images each, in the other methods
SEED=${SEED:-0}
DATA=${DATA:-true_dataset}

"$PYTHON" -m dataset.fashion_mnist --root "$DATA"
for METHOD in $METHODS; do
    for TRIAL in $TRIALS; do
        case $METHOD-$TRIAL in
        dm-kd-a) SCALE=2 && set -- --use_aug none ;;        # the paper's low fidelity
        dm-kd-b) SCALE=1 && set -- --use_aug none ;;        # no guidance
        dm-kd-c) SCALE=1 && set -- --use_aug mixup ;;
        one-image-a) set -- --kd_T 8 --no_tau2 --optimizer adam --learning_rate 1e-3 --weight_decay 0 --use_aug cutmix ;;
        one-image-b) set -- --kd_T 8 --no_tau2 --learning_rate 0.05 --weight_decay 5e-4 ;;
        one-image-c) set -- --kd_T 4 --learning_rate 0.05 --weight_decay 5e-4 --use_aug cutmix ;;
        deepinversion-a) set -- --batch 64 --steps 50 ;;
        deepinversion-b) set -- --batch 64 --steps 50 --bn 1 ;;
        deepinversion-c) set -- --batch 64 --steps 100 ;;
        dafl-a | dfq-a) set -- --kd_T 1 ;;
        dafl-b | dfq-b) set -- --kd_T 4 ;;
        dafl-c | dfq-c) set -- --kd_T 1 --student_steps 1 ;;
        fastdfkd-a) set -- --batch 64 --k 5 --rounds_per_epoch 2 --warmup_rounds 10 --reset_round 0 ;;
        fastdfkd-b) set -- --batch 64 --k 10 --rounds_per_epoch 1 --warmup_rounds 5 --reset_round 0 ;;
        fastdfkd-c) set -- --batch 64 --k 5 --rounds_per_epoch 4 --warmup_rounds 10 --reset_round 0 ;;
        *) echo "error: no trial $TRIAL of $METHOD: METHODS and TRIALS are at the top of this script" >&2; exit 2 ;;
        esac
        NAME=${METHOD}_${TRIAL}_seed$SEED
        FOLDER=syn_dataset/trial_$NAME
        case $METHOD in
        dm-kd)
            "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler ddim --num-sampling-steps 25 --cfg-scale "$SCALE" \
                --data_amount "$IMAGES" --batch_size 100 --seed "$SEED" --save_dir "$FOLDER"
            set -- --learning_rate 0.05 --weight_decay 5e-4 --kd_T 4 "$@" ;;
        one-image)
            FOLDER=syn_dataset/trial_one-image_seed$SEED
            "$PYTHON" synthesize_baseline.py --method one-image --image-size 32 --data_amount "$IMAGES" --seed "$SEED" \
                --save_dir "$FOLDER" ;;
        esac
        case $METHOD in
        dm-kd | one-image) set -- train_student.py --train_data "$FOLDER" --batch_size 32 --schedule cosine "$@" ;;
        *) set -- train_datafree.py --method "$METHOD" --steps_per_epoch "$STEPS" --batch_size 64 "$@" ;;
        esac
        echo "== $METHOD, trial $TRIAL: $*"
        "$PYTHON" "$@" --dataset fashion_mnist --data_root "$DATA" --val_split holdout --path-t "$TEACHER" --model_s resnet8 \
            --epochs "$EPOCHS" --warmup_epochs 1 --seed "$SEED" --table trials --resume \
            --experiments_dir trials --experiments_name "$NAME"
    done
done
