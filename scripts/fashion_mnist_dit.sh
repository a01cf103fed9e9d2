#!/bin/sh
# The pipeline that the quickstart samples from: an autoencoder, then a DiT on its latents, on Fashion-MNIST's first
# 55,000 training images. Run it again to go on where it was stopped.
# On two slow CPU cores: about 30 minutes for the autoencoder, 40 for the DiT (on one of them).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SEED=0

"$PYTHON" train_dit.py --stage vae --dataset fashion_mnist --seed $SEED \
    --vae_channels 16,32,64 --epochs 3 --batch_size 64 --learning_rate 1e-3 --warmup_epochs 0.05 --resume
"$PYTHON" train_dit.py --stage dit --dataset fashion_mnist --seed $SEED \
    --vae_channels 16,32,64 --depth 6 --width 128 --heads 4 --patch_size 2 --label_dropout 0.1 \
    --epochs 12 --batch_size 128 --learning_rate 1e-3 --warmup_epochs 0.2 --ema 0.999 --resume
