#!/bin/sh
# Runs every script on a GPU in about five minutes, before a long run spends days on one:
# Fashion-MNIST (downloaded if it is missing), the weights of this repository, and small networks.
# Each step prints what to expect and then its output; the last line counts the failures. With two
# or more GPUs it also runs on two of them.
#   DEVICE=cpu AMP=off IMAGES=256 sh scripts/smoke_gpu.sh    without a GPU: 8 minutes on two cores
set -eu
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda}
OUT=save/smoke                           # deleted first; all outputs go there
DATA=${DATA:-true_dataset}
IMAGES=${IMAGES:-640}
AMP=${AMP:-bf16}                         # off where bf16 is slow, as on most CPUs
GENERATOR=save/models/fashion_mnist/DiT-6x160-2
TEACHER=save/models/fashion_mnist/resnet20/resnet20_latest.pth
NUMBER=0
FAILED=
. scripts/common.sh

step() {    # step "title" "what to expect" lines-to-show command…
    NUMBER=$((NUMBER + 1))
    printf '\n[%s] %s\n    expected: %s\n' "$NUMBER" "$1" "$2"
    LINES_SHOWN=$3
    shift 3
    if "$@" > "$OUT/$NUMBER.log" 2>&1; then
        tr '\r' '\n' < "$OUT/$NUMBER.log" | grep -v '|' | tail -n "$LINES_SHOWN" | sed 's/^/    /'
    else
        FAILED="$FAILED $NUMBER"
        echo "    FAILED with exit code $?: $OUT/$NUMBER.log ends with"
        tr '\r' '\n' < "$OUT/$NUMBER.log" | tail -n 5 | sed 's/^/    /'
    fi
}

synthesize() {    # synthesize folder images flags…
    FOLDER=$1
    AMOUNT=$2
    shift 2
    "$PYTHON" synthesize_dit.py --model "$GENERATOR" --cfg-scale 1.2 --num-sampling-steps 10 \
        --batch_size 64 --no_tf32 --data_amount "$AMOUNT" --save_dir "$FOLDER" "$@"
}

distill() {    # distill name flags…
    RUN=$1
    shift
    "$PYTHON" train_student.py --dataset fashion_mnist --data_root "$DATA" --path-t "$TEACHER" \
        --model_s resnet8 --train_data "$OUT/images" --epochs 10 --batch_size 32 \
        --schedule cosine --device "$DEVICE" --table smoke \
        --experiments_dir ../smoke/students --experiments_name "$RUN" "$@"
}

train_dit() {    # train_dit flags…
    "$PYTHON" train_dit.py --dataset imagefolder --data_root "$OUT/set" --val_data "$OUT/images" \
        --image_size 32 --epochs 1 --batch_size 32 --learning_rate 1e-3 --device "$DEVICE" \
        --save_dir "$OUT/dit" "$@"
}

stop_and_resume() {    # the run `whole` again, stopped after its first epoch and resumed
    distill stopped --amp off --deterministic --epochs 20 &
    RUNNER=$!
    until [ -e "$OUT/students/stopped/resnet8_best.pth" ] || ! kill -0 "$RUNNER"; do
        sleep 0.2
    done
    pkill -TERM -P "$RUNNER"             # the training, not the shell around it
    CODE=0
    wait "$RUNNER" || CODE=$?
    [ "$CODE" = 143 ] || { echo "exit code $CODE, not 143"; return 1; }
    distill stopped --amp off --deterministic --epochs 20 --resume
    for NAME in whole stopped; do        # all columns except the speed
        cut -d , -f 1-4,6- "$OUT/students/$NAME/metrics.csv" > "$OUT/$NAME.csv"
    done
    cmp "$OUT/whole.csv" "$OUT/stopped.csv" &&
        echo "stopped and resumed: the same metrics as the uninterrupted run"
}

rm -rf "$OUT"
mkdir -p "$OUT/set/imagefolder"
GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')

step "the device" "the GPU's name; bf16 several times as fast as fp32" 3 \
    "$PYTHON" -m benchmarks.device --device "$DEVICE"
step "real Fashion-MNIST" "60,000 and 10,000 images" 1 \
    "$PYTHON" -m tools.fashion_mnist --root "$DATA"
step "sampling" "$IMAGES images; garments in $OUT/images_contact_sheet.png" 1 \
    synthesize "$OUT/images" "$IMAGES" --device "$DEVICE"
step "the same images on the CPU" "64 images" 1 synthesize "$OUT/on_cpu" 64 --device cpu
step "device against CPU" "at least 99 % equal or one level apart" 1 \
    "$PYTHON" -m tools.compare "$OUT/images" "$OUT/on_cpu"
step "sampling in bf16" "64 images" 1 \
    synthesize "$OUT/bf16" 64 --device "$DEVICE" --precision bf16
step "sampling, compiled" "64 images" 1 synthesize "$OUT/compiled" 64 --device "$DEVICE" --compile
step "distillation, $AMP" "a student well above chance, 10 %" 1 distill plain --amp "$AMP"
step "distillation, compiled" "about the same accuracy" 1 distill compiled --amp "$AMP" --compile
if [ "$DEVICE" != cpu ]; then
    step "distillation, captured" "about the same accuracy, several times as fast" 1 \
        distill captured --amp "$AMP" --capture on
    step "distillation, compiled and captured" "about the same accuracy" 1 \
        distill both --amp "$AMP" --compile --capture on
fi
step "distillation, fp32, deterministic" "a better student: 20 epochs instead of 10" 1 \
    distill whole --amp off --deterministic --epochs 20
step "SIGTERM, then --resume" "the same metrics as the uninterrupted run" 1 stop_and_resume
step "a pack" "the images of $OUT/images" 1 \
    "$PYTHON" -m tools.pack "$OUT/images" --out "$OUT/pack"
step "distillation on the pack" "about the same accuracy" 1 \
    distill packed --amp "$AMP" --train_data "$OUT/pack"
step "a teacher, 224 pixels" "a finite loss" 1 \
    "$PYTHON" train_teacher.py --dataset imagefolder --train_data "$OUT/images" \
    --val_data "$OUT/images" --model ResNet18 --epochs 1 --batch_size 32 --learning_rate 0.01 \
    --device "$DEVICE" --save_dir "$OUT/ResNet18"
step "distillation, 224 pixels" "a finite loss" 1 \
    "$PYTHON" train_student.py --dataset imagefolder --train_data "$OUT/images" \
    --val_data "$OUT/images" --path-t "$OUT/ResNet18/ResNet18_latest.pth" --model_s ResNet18 \
    --epochs 1 --batch_size 32 --learning_rate 0.01 --kd_T 10 --use_aug mixup --amp "$AMP" \
    --device "$DEVICE" --experiments_dir ../smoke/students --experiments_name large
ln -s "$PWD/$OUT/images" "$OUT/set/imagefolder/train"
step "an autoencoder" "a finite loss" 1 train_dit --stage vae
step "a DiT" "a finite loss" 1 train_dit --stage dit --depth 2
step "the cost of the paper's 200K images" "9.62 EFLOP and 22.3 GB" 3 \
    "$PYTHON" synthesize_dit.py --model DiT-XL/2 --num-sampling-steps 100 --cfg-scale 2 \
    --data_amount 200k --estimate
if [ "$GPUS" -ge 2 ]; then
    step "two GPUs" "about the same accuracy" 1 \
        distill two --gpu_id 0,1 --multiprocessing-distributed
else
    printf '\n(fewer than two GPUs: several processes were not tested)\n'
fi

printf '\n%s of %s steps failed%s\n' "$(echo "$FAILED" | wc -w)" "$NUMBER" "${FAILED:+:$FAILED}"
[ -z "$FAILED" ]
