#!/bin/sh
# Fashion-MNIST: five trials of every method on `holdout`, which choose the settings of scripts/cells/fashion_mnist.txt. The
# teacher is the shipped ResNet20, the student the quickstart's ResNet8; a trial is 32,000 image-steps of the student, a
# quarter of a cell's. Where a trial says nothing, the settings are the published ones. One to twelve minutes of one core
# each; finished ones are left alone. results/fashion_mnist_methods.md has the figures.
#   METHODS=dfq TRIALS=a sh scripts/fashion_mnist_trials.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
METHODS=${METHODS:-"dm-kd digits one-image deepinversion dafl dfq fastdfkd"}
TRIALS=${TRIALS:-"a b c d e"}
TEACHER=${TEACHER:-save/models/fashion_mnist/resnet20/resnet20_latest.pth}
GENERATOR=${GENERATOR:-save/models/fashion_mnist/DiT-6x160-2}
IMAGES=${IMAGES:-3200}                   # of dm-kd and one-image; there are 1,797 digits
EPOCHS=${EPOCHS:-10}                     # a trial with more images than IMAGES has fewer
STEPS=${STEPS:-50}                       # of the student an epoch, of 64 images each, in the other methods
SEED=${SEED:-0}
DATA=${DATA:-true_dataset}

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
for METHOD in $METHODS; do
    for TRIAL in $TRIALS; do
        AMOUNT=$IMAGES BATCH=64             # BATCH: of the student, twice that of a folder of images
        case $METHOD-$TRIAL in
        dm-kd-a) SCALE=2 && set -- --use_aug none ;;        # the paper's low fidelity
        dm-kd-b) SCALE=1 && set -- --use_aug none ;;        # no guidance
        dm-kd-c) SCALE=1 && set -- --use_aug mixup ;;
        dm-kd-d) SCALE=1 AMOUNT=$((2 * IMAGES)) && set -- --use_aug mixup ;;
        dm-kd-e) SCALE=1 AMOUNT=$((2 * IMAGES)) BATCH=32 && set -- --use_aug mixup ;;
        digits-a) set -- --use_aug none ;;                  # real images of other classes, as Places365 is
        digits-b) set -- --use_aug cutmix ;;
        digits-c) set -- --use_aug mixup ;;
        digits-d) BATCH=32 && set -- --use_aug none ;;
        digits-e) BATCH=32 && set -- --use_aug mixup ;;
        one-image-a) set -- --kd_T 8 --no_tau2 --optimizer adam --learning_rate 1e-3 --weight_decay 0 --use_aug cutmix ;;
        one-image-b) set -- --kd_T 8 --no_tau2 --learning_rate 0.05 --weight_decay 5e-4 ;;
        one-image-c) set -- --kd_T 4 --learning_rate 0.05 --weight_decay 5e-4 --use_aug cutmix ;;
        one-image-d) set -- --kd_T 4 --learning_rate 0.05 --weight_decay 5e-4 ;;
        one-image-e) BATCH=32 && set -- --kd_T 4 --learning_rate 0.05 --weight_decay 5e-4 ;;
        deepinversion-a) set -- --batch 64 --steps 50 ;;
        deepinversion-b) set -- --batch 64 --steps 50 --bn 1 ;;
        deepinversion-c) set -- --batch 64 --steps 100 --tv 1e-3 ;;
        deepinversion-d) set -- --batch 64 --steps 100 --tv 0.1 --decay cosine ;;
        deepinversion-e) set -- --batch 64 --steps 200 --tv 0.03 --decay cosine ;;
        dafl-a | dfq-a) set -- --kd_T 1 ;;
        dafl-b | dfq-b) set -- --kd_T 4 ;;
        dafl-c | dfq-c) set -- --kd_T 1 --student_steps 1 ;;
        dafl-d) set -- --kd_T 1 --student_steps 1 --balance 5 --act 0.1 ;;      # of the authors' code for MNIST
        dafl-e) BATCH=32 && set -- --kd_T 1 --learning_rate 0.05 ;;
        dfq-d) set -- --kd_T 1 --student_steps 1 --balance 5 ;;
        dfq-e) BATCH=32 && set -- --kd_T 1 --student_steps 1 --balance 5 --learning_rate 0.05 ;;
        fastdfkd-a) set -- --batch 64 --k 5 --rounds_per_epoch 2 --warmup_rounds 10 --reset_round 0 ;;
        fastdfkd-b) set -- --batch 64 --k 10 --rounds_per_epoch 1 --warmup_rounds 5 --reset_round 0 ;;
        fastdfkd-c) set -- --batch 64 --k 5 --rounds_per_epoch 4 --warmup_rounds 10 --reset_round 0 ;;
        fastdfkd-d) set -- --batch 64 --k 5 --rounds_per_epoch 4 --warmup_rounds 10 --reset_round 0 --kd_T 4 ;;
        fastdfkd-e) BATCH=32 && set -- --batch 64 --k 5 --rounds_per_epoch 4 --warmup_rounds 10 --reset_round 0 --kd_T 4 \
            --learning_rate 0.1 ;;
        *) echo "error: no trial $TRIAL of $METHOD: METHODS and TRIALS are at the top of this script" >&2; exit 2 ;;
        esac
        NAME=${METHOD}_${TRIAL}_seed$SEED
        FOLDER=syn_dataset/trial_$NAME
        case $METHOD in
        dm-kd)
            "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler ddim --num-sampling-steps 25 --cfg-scale "$SCALE" \
                --data_amount "$AMOUNT" --batch_size 100 --seed "$SEED" --save_dir "$FOLDER"
            set -- --learning_rate 0.05 --weight_decay 5e-4 --kd_T 4 "$@" ;;
        digits)
            AMOUNT=1600 FOLDER=$DATA/digits
            "$PYTHON" -m tools.digits "$FOLDER"
            set -- --ignore_labels --row Digits+KD --learning_rate 0.05 --weight_decay 5e-4 --kd_T 4 "$@" ;;
        one-image)
            FOLDER=syn_dataset/trial_one-image_seed$SEED
            "$PYTHON" synthesize_baseline.py --method one-image --image-size 32 --data_amount "$AMOUNT" --seed "$SEED" \
                --save_dir "$FOLDER" ;;
        esac
        case $METHOD in
        dm-kd | digits | one-image)
            set -- train_student.py --train_data "$FOLDER" --data_amount "$AMOUNT" --epochs $((EPOCHS * IMAGES / AMOUNT)) \
                --batch_size $((BATCH / 2)) --schedule cosine "$@" ;;
        *)
            set -- train_datafree.py --method "$METHOD" --epochs "$EPOCHS" --steps_per_epoch $((STEPS * 64 / BATCH)) \
                --batch_size "$BATCH" "$@" ;;
        esac
        echo "== $METHOD, trial $TRIAL: $*"
        "$PYTHON" "$@" --dataset fashion_mnist --data_root "$DATA" --val_split holdout --path-t "$TEACHER" --model_s resnet8 \
            --warmup_epochs 1 --seed "$SEED" --table trials --resume \
            --experiments_dir trials --experiments_name "$NAME"
    done
done
