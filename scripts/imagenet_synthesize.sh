#!/bin/sh
# The paper's low-fidelity ImageNet images: guidance scale s = 2, T = 100 steps, 200 per class,
# DiT-XL/2 at 256 pixels. Needs a GPU, 23 GB of disk, and the weights: the official file
# pretrained_models/DiT-XL-2-256x256.pt, or CKPT=FILE, or else the Hugging Face hub's. The VAE is
# the hub's sd-vae-ft-mse, or VAE=FOLDER. Cost: 48 TFLOP per image, 9.6 EFLOP in all (ESTIMATE=1
# prints that of other settings). The run prints the expected hours after its first batches.
# bf16 is the fastest; the paper's images were computed with TF32 in batches of 10: PRECISION=fp32.
# Run it again to continue; a larger IMAGES_PER_CLASS adds to the images that exist.
#   GPUS=8 sh scripts/imagenet_synthesize.sh              eight GPUs
#   SCALE=4 STEPS=250 sh scripts/imagenet_synthesize.sh   the high-fidelity images: 2.5 × the cost
set -eu
cd "$(dirname "$0")/.."
GPUS=${GPUS:-1}                          # processes on this machine
MODEL=${MODEL:-DiT-XL/2}
CKPT=${CKPT:-}                           # an official checkpoint elsewhere
VAE=${VAE:-}                             # mse, ema, or a folder
SCALE=${SCALE:-2}                        # guidance scale s
STEPS=${STEPS:-100}                      # T, steps of the ancestral DDPM chain
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-200}
PRECISION=${PRECISION:-bf16}             # or fp32, which is TF32 on a GPU
BATCH=${BATCH:-}                         # batch size per process, by default that of the device
SEED=${SEED:-0}
SAVE_DIR=${SAVE_DIR:-syn_dataset/DiT-XL-2-256_ddpm_s${SCALE}_T${STEPS}_seed$SEED}
ESTIMATE=${ESTIMATE:+--estimate}
. scripts/common.sh

exec "$PYTHON" $TORCHRUN synthesize_dit.py \
    --model "$MODEL" ${CKPT:+--ckpt "$CKPT"} ${VAE:+--vae "$VAE"} --sampler ddpm \
    --cfg-scale "$SCALE" --num-sampling-steps "$STEPS" --images_per_class "$IMAGES_PER_CLASS" \
    --precision "$PRECISION" ${BATCH:+--batch_size "$BATCH"} --seed "$SEED" \
    --save_dir "$SAVE_DIR" $ESTIMATE
