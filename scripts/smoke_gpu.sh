#!/bin/sh
# Five minutes through every script on a GPU, before a long run spends days on one: Fashion-MNIST (downloaded if it is not
# there), the weights of this repository, and small networks. Each step says what it must print and then prints it; the last line
# counts the failures. With two GPUs or more it also runs on two of them.
#   DEVICE=cpu AMP=off IMAGES=256 sh scripts/smoke_gpu.sh    the same steps without a GPU, about 8 minutes on two cores
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DEVICE=${DEVICE:-cuda}
OUT=save/smoke                           # emptied first; everything goes there
DATA=${DATA:-true_dataset}
IMAGES=${IMAGES:-640}
AMP=${AMP:-bf16}                         # off where bf16 is slow: on most processors
STOP_AFTER=${STOP_AFTER:-15}             # seconds after which a run is stopped, to be resumed
GENERATOR=save/models/fashion_mnist/DiT-6x160-2
TEACHER=save/models/fashion_mnist/resnet20/resnet20_latest.pth
NUMBER=0
FAILED=

step() {    # step "what" "what it must print" lines-to-show command…
    NUMBER=$((NUMBER + 1))
    printf '\n[%s] %s\n    must print: %s\n' "$NUMBER" "$1" "$2"
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
    "$PYTHON" synthesize_dit.py --model "$GENERATOR" --cfg-scale 1.2 --num-sampling-steps 10 --batch_size 64 --no_tf32 \
        --data_amount "$AMOUNT" --save_dir "$FOLDER" "$@"
}

distill() {    # distill name flags…
    RUN=$1
    shift
    "$PYTHON" train_student.py --dataset fashion_mnist --data_root "$DATA" --path-t "$TEACHER" --model_s resnet8 \
        --train_data "$OUT/images" --epochs 10 --batch_size 32 --schedule cosine --device "$DEVICE" --table smoke \
        --experiments_dir ../smoke/students --experiments_name "$RUN" "$@"
}

stop_and_resume() {    # the same run as `whole`, sent SIGTERM on its way
    distill stopped --amp off --deterministic --epochs 20 &
    RUNNER=$!
    sleep "$STOP_AFTER"
    pkill -TERM -P "$RUNNER"             # the training, not the shell around it
    CODE=0
    wait "$RUNNER" || CODE=$?
    [ "$CODE" = 143 ] || { echo "exit code $CODE, not 143"; return 1; }
    distill stopped --amp off --deterministic --epochs 20 --resume
    # All columns but the speed.
    for NAME in whole stopped; do cut -d , -f 1-4,6- "$OUT/students/$NAME/metrics.csv" > "$OUT/$NAME.csv"; done
    cmp "$OUT/whole.csv" "$OUT/stopped.csv" && echo "stopped and resumed: the same metrics as the whole run"
}

rm -rf "$OUT"
mkdir -p "$OUT/set/imagefolder"
GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')

step "the device" "the GPU's name; bf16 several times as fast as fp32" 3 \
    "$PYTHON" -m benchmarks.device --device "$DEVICE"
step "the real Fashion-MNIST" "60,000 and 10,000 images" 1 "$PYTHON" -m tools.fashion_mnist --root "$DATA"
step "sampling" "$IMAGES images made; look at $OUT/images_contact_sheet.png: garments" 1 \
    synthesize "$OUT/images" "$IMAGES" --device "$DEVICE"
step "the same images on the CPU" "64 images made" 1 synthesize "$OUT/on_cpu" 64 --device cpu
step "device against CPU" "at least 99 % equal or one level apart" 1 "$PYTHON" -m tools.compare "$OUT/images" "$OUT/on_cpu"
step "sampling in bf16" "64 images made" 1 synthesize "$OUT/bf16" 64 --device "$DEVICE" --precision bf16
step "sampling, compiled" "64 images made" 1 synthesize "$OUT/compiled" 64 --device "$DEVICE" --compile
step "distillation, $AMP" "a student well above chance, 10 %" 1 distill plain --amp "$AMP"
step "distillation, compiled" "about the same student" 1 distill compiled --amp "$AMP" --compile
step "distillation, fp32, deterministic" "a better student, after 20 epochs instead of 10" 1 distill whole --amp off --deterministic --epochs 20
step "SIGTERM in the middle, then --resume" "the same metrics as the whole run" 1 stop_and_resume
step "a teacher, 224 pixels" "a loss that is a number" 1 \
    "$PYTHON" train_teacher.py --dataset imagefolder --train_data "$OUT/images" --val_data "$OUT/images" --model ResNet18 --epochs 1 \
    --batch_size 32 --learning_rate 0.01 --device "$DEVICE" --save_dir "$OUT/ResNet18"
step "distillation, 224 pixels" "a loss that is a number" 1 \
    "$PYTHON" train_student.py --dataset imagefolder --train_data "$OUT/images" --val_data "$OUT/images" --model_s ResNet18 --epochs 1 \
    --path-t "$OUT/ResNet18/ResNet18_latest.pth" --batch_size 32 --learning_rate 0.01 --kd_T 10 --use_aug mixup --amp "$AMP" --device "$DEVICE" \
    --experiments_dir ../smoke/students --experiments_name large
ln -s "$PWD/$OUT/images" "$OUT/set/imagefolder/train"
step "an autoencoder" "a loss that is a number" 1 \
    "$PYTHON" train_dit.py --stage vae --dataset imagefolder --data_root "$OUT/set" --val_data "$OUT/images" --image_size 32 --epochs 1 \
    --batch_size 32 --learning_rate 1e-3 --device "$DEVICE" --save_dir "$OUT/dit"
step "a DiT" "a loss that is a number" 1 \
    "$PYTHON" train_dit.py --stage dit --dataset imagefolder --data_root "$OUT/set" --val_data "$OUT/images" --image_size 32 --epochs 1 \
    --batch_size 32 --learning_rate 1e-3 --depth 2 --device "$DEVICE" --save_dir "$OUT/dit"
step "what the paper's 200K images cost" "9.62 EFLOP and 22.3 GB" 3 \
    "$PYTHON" synthesize_dit.py --model DiT-XL/2 --num-sampling-steps 100 --cfg-scale 2 --data_amount 200k --estimate
if [ "$GPUS" -ge 2 ]; then
    step "two GPUs" "about the same student" 1 distill two --gpu_id 0,1 --multiprocessing-distributed
else
    printf '\n(one GPU or none: several processes were not run)\n'
fi

printf '\n%s of %s steps failed%s\n' "$(echo "$FAILED" | wc -w)" "$NUMBER" "${FAILED:+:$FAILED}"
[ -z "$FAILED" ]
