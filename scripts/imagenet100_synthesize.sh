#!/bin/sh
# ImageNet-100: 200K images of its 100 classes, s = 2, T = 100, from DiT-XL/2 at 256 pixels, in
# folders named by ImageNet's class index. Assumed: the number of images, which the paper does not
# give. Cost: 9.6 EFLOP and 23 GB. Requirements as in scripts/imagenet_synthesize.sh.
#   GPUS=8 sh scripts/imagenet100_synthesize.sh           eight GPUs
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-1}
MODEL=${MODEL:-DiT-XL/2}
CKPT=${CKPT:-}
VAE=${VAE:-}
SCALE=${SCALE:-2}
STEPS=${STEPS:-100}
AMOUNT=${AMOUNT:-200k}
PRECISION=${PRECISION:-bf16}             # the fastest; the paper: fp32, which is TF32 on a GPU
BATCH=${BATCH:-}
SEED=${SEED:-0}
SAVE_DIR=${SAVE_DIR:-syn_dataset/DiT-XL-2-256_ddpm_s${SCALE}_T${STEPS}_seed${SEED}_imagenet100}
ESTIMATE=${ESTIMATE:+--estimate}
. scripts/common.sh

exec "$PYTHON" $TORCHRUN synthesize_dit.py \
    --model "$MODEL" ${CKPT:+--ckpt "$CKPT"} ${VAE:+--vae "$VAE"} --sampler ddpm \
    --cfg-scale "$SCALE" --num-sampling-steps "$STEPS" \
    --class-list dataset/class_lists/imagenet100.txt --data_amount "$AMOUNT" \
    --precision "$PRECISION" ${BATCH:+--batch_size "$BATCH"} --seed "$SEED" \
    --save_dir "$SAVE_DIR" $ESTIMATE
