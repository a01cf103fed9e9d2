#!/bin/sh
# The paper's low-fidelity ImageNet images: guidance scale s = 2, T = 100 steps, 200 a class, DiT-XL/2 at 256 pixels.
# Needs a GPU, 23 GB of disk, and the weights: pretrained_models/DiT-XL-2-256x256.pt (the official file) or CKPT, else
# the Hugging Face hub's; the VAE is the hub's sd-vae-ft-mse, or VAE=FOLDER. Computed cost: 48 TFLOP an image, 9.6 EFLOP
# in all (ESTIMATE=1 computes other settings); after its first batches the run says how many hours it will take.
# Run again, it does only what is missing; a larger IMAGES_PER_CLASS adds to what is there.
#   GPUS=8 sh scripts/imagenet_synthesize.sh              eight GPUs
#   SCALE=4 STEPS=250 sh scripts/imagenet_synthesize.sh   the high-fidelity images: 2.5 times the cost
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${GPUS:-1}                          # processes on this machine
MODEL=${MODEL:-DiT-XL/2}
CKPT=${CKPT:-}                           # an official checkpoint elsewhere
VAE=${VAE:-}                             # mse, ema, or a folder
SCALE=${SCALE:-2}                        # guidance scale s
STEPS=${STEPS:-100}                      # steps of the ancestral DDPM chain, T
IMAGES_PER_CLASS=${IMAGES_PER_CLASS:-200}
BATCH=${BATCH:-32}                       # images a step of a process; another one changes some pixels by a level
SEED=${SEED:-0}
SAVE_DIR=${SAVE_DIR:-syn_dataset/DiT-XL-2-256_ddpm_s${SCALE}_T${STEPS}_seed$SEED}
ESTIMATE=${ESTIMATE:+--estimate}

exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    synthesize_dit.py --model "$MODEL" ${CKPT:+--ckpt "$CKPT"} ${VAE:+--vae "$VAE"} --sampler ddpm \
    --cfg-scale "$SCALE" --num-sampling-steps "$STEPS" --images_per_class "$IMAGES_PER_CLASS" \
    --batch_size "$BATCH" --seed "$SEED" --save_dir "$SAVE_DIR" $ESTIMATE
