#!/bin/sh
# Fashion-MNIST: five trials per method, evaluated on holdout, which choose the settings of
# scripts/cells/fashion_mnist.txt. The teacher is the shipped ResNet-20, the student the
# quickstart's ResNet-8. A trial takes 32,000 image-steps of the student, a quarter of a cell's, and
# 1 to 12 minutes on one core; finished trials are skipped. Settings that a trial does not name are
# the published ones. Results: results/fashion_mnist_methods.md.
#   METHODS=dfq TRIALS=a sh scripts/fashion_mnist_trials.sh
set -eu
cd "$(dirname "$0")/.."
METHODS=${METHODS:-"dm-kd digits one-image deepinversion dafl dfq fastdfkd"}
TRIALS=${TRIALS:-"a b c d e"}
TEACHER=${TEACHER:-save/models/fashion_mnist/resnet20/resnet20_latest.pth}
GENERATOR=${GENERATOR:-save/models/fashion_mnist/DiT-6x160-2}
IMAGES=${IMAGES:-3200}                   # of dm-kd and one-image; there are 1,797 digits
EPOCHS=${EPOCHS:-10}                     # fewer where a trial has more images than IMAGES
STEPS=${STEPS:-50}                       # student steps per epoch of the other methods, batch 64
SEED=${SEED:-0}
DATA=${DATA:-true_dataset}
. scripts/common.sh

"$PYTHON" -m tools.fashion_mnist --root "$DATA"
for METHOD in $METHODS; do
    for TRIAL in $TRIALS; do
        # Defaults, and the flags of the trial. BATCH is the student's batch size, or twice that for
        # methods that train on a folder of images.
        AMOUNT=$IMAGES BATCH=64 FOLDER=
        FOLDER_STUDENT="--learning_rate 0.05 --weight_decay 5e-4"
        FASTDFKD="--batch 64 --reset_round 0"
        FEW_STEPS="$FASTDFKD --k 5 --rounds_per_epoch 4 --warmup_rounds 10"
        case $METHOD-$TRIAL in
        dm-kd-a) SCALE=2 && set -- --use_aug none ;;        # the paper's low fidelity
        dm-kd-b) SCALE=1 && set -- --use_aug none ;;        # no guidance
        dm-kd-c) SCALE=1 && set -- --use_aug mixup ;;
        dm-kd-d) SCALE=1 AMOUNT=$((2 * IMAGES)) && set -- --use_aug mixup ;;
        dm-kd-e) SCALE=1 AMOUNT=$((2 * IMAGES)) BATCH=32 && set -- --use_aug mixup ;;
        digits-a) set -- --use_aug none ;;                  # real images of other classes
        digits-b) set -- --use_aug cutmix ;;
        digits-c) set -- --use_aug mixup ;;
        digits-d) BATCH=32 && set -- --use_aug none ;;
        digits-e) BATCH=32 && set -- --use_aug mixup ;;
        one-image-a) set -- --kd_T 8 --no_tau2 --optimizer adam --learning_rate 1e-3 \
            --weight_decay 0 --use_aug cutmix ;;
        one-image-b) set -- --kd_T 8 --no_tau2 $FOLDER_STUDENT ;;
        one-image-c) set -- --kd_T 4 $FOLDER_STUDENT --use_aug cutmix ;;
        one-image-d) set -- --kd_T 4 $FOLDER_STUDENT ;;
        one-image-e) BATCH=32 && set -- --kd_T 4 $FOLDER_STUDENT ;;
        deepinversion-a) set -- --batch 64 --steps 50 ;;
        deepinversion-b) set -- --batch 64 --steps 50 --bn 1 ;;
        deepinversion-c) set -- --batch 64 --steps 100 --tv 1e-3 ;;
        deepinversion-d) set -- --batch 64 --steps 100 --tv 0.1 --decay cosine ;;
        deepinversion-e) set -- --batch 64 --steps 200 --tv 0.03 --decay cosine ;;
        dafl-a | dfq-a) set -- --kd_T 1 ;;
        dafl-b | dfq-b) set -- --kd_T 4 ;;
        dafl-c | dfq-c) set -- --kd_T 1 --student_steps 1 ;;
        dafl-d) set -- --kd_T 1 --student_steps 1 --balance 5 --act 0.1 ;;  # the authors' MNIST
        dafl-e) BATCH=32 && set -- --kd_T 1 --learning_rate 0.05 ;;
        dfq-d) set -- --kd_T 1 --student_steps 1 --balance 5 ;;
        dfq-e) BATCH=32 && set -- --kd_T 1 --student_steps 1 --balance 5 --learning_rate 0.05 ;;
        fastdfkd-a) set -- $FASTDFKD --k 5 --rounds_per_epoch 2 --warmup_rounds 10 ;;
        fastdfkd-b) set -- $FASTDFKD --k 10 --rounds_per_epoch 1 --warmup_rounds 5 ;;
        fastdfkd-c) set -- $FEW_STEPS ;;
        fastdfkd-d) set -- $FEW_STEPS --kd_T 4 ;;
        fastdfkd-e) BATCH=32 && set -- $FEW_STEPS --kd_T 4 --learning_rate 0.1 ;;
        *) echo "error: no trial $TRIAL of $METHOD: see METHODS and TRIALS in $0" >&2; exit 2 ;;
        esac
        NAME=${METHOD}_${TRIAL}_seed$SEED

        # The folder of images, for the methods that have one.
        case $METHOD in
        dm-kd)
            FOLDER=syn_dataset/trial_$NAME
            "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler ddim \
                --num-sampling-steps 25 --cfg-scale "$SCALE" --data_amount "$AMOUNT" \
                --batch_size 100 --seed "$SEED" --save_dir "$FOLDER"
            set -- $FOLDER_STUDENT --kd_T 4 "$@" ;;
        digits)
            AMOUNT=1600 FOLDER=$DATA/digits
            "$PYTHON" -m tools.digits "$FOLDER"
            set -- --ignore_labels --row Digits+KD $FOLDER_STUDENT --kd_T 4 "$@" ;;
        one-image)
            FOLDER=syn_dataset/trial_one-image_seed$SEED
            "$PYTHON" synthesize_baseline.py --method one-image --image-size 32 \
                --data_amount "$AMOUNT" --seed "$SEED" --save_dir "$FOLDER" ;;
        esac

        # The student.
        if [ -n "$FOLDER" ]; then
            set -- train_student.py --train_data "$FOLDER" --data_amount "$AMOUNT" \
                --epochs $((EPOCHS * IMAGES / AMOUNT)) --batch_size $((BATCH / 2)) \
                --schedule cosine "$@"
        else
            set -- train_datafree.py --method "$METHOD" --epochs "$EPOCHS" \
                --steps_per_epoch $((STEPS * 64 / BATCH)) --batch_size "$BATCH" "$@"
        fi
        echo "== $METHOD, trial $TRIAL: $*"
        "$PYTHON" "$@" --dataset fashion_mnist --data_root "$DATA" --val_split holdout \
            --path-t "$TEACHER" --model_s resnet8 --warmup_epochs 1 --seed "$SEED" \
            --table trials --resume --experiments_dir trials --experiments_name "$NAME"
    done
done
