#!/bin/sh
# The weights that are shipped, from nothing, trained on Fashion-MNIST's first 55,000 training images: the two teachers,
# the autoencoder, and the DiT on its latents. Each stage goes on where it was stopped, and a finished one is left alone.
# Hours on two CPU cores: see "Measured here" in README.md. Stages can be named: sh scripts/fashion_mnist_weights.sh vae dit
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-save/models/fashion_mnist_again}      # the shipped ones stay as they are
SEED=${SEED:-0}
PROCESSES=${PROCESSES:-2}        # that train the DiT: on a CPU two of one thread do more than one of two; GPUs elsewhere
[ $# -gt 0 ] || set -- teacher weaker_teacher vae dit

"$PYTHON" -m tools.fashion_mnist
for stage; do
    case $stage in
    teacher) "$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet20 --seed "$SEED" --epochs 16 \
        --schedule cosine --learning_rate 0.1 --warmup_epochs 1 --batch_size 128 --weight_decay 5e-4 \
        --save_dir "$OUT/resnet20" --resume ;;
    weaker_teacher) "$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet8 --seed "$SEED" --epochs 2 \
        --schedule cosine --learning_rate 0.1 --warmup_epochs 0.3 --batch_size 128 --weight_decay 5e-4 \
        --save_dir "$OUT/resnet8" --resume ;;
    vae) "$PYTHON" train_dit.py --stage vae --dataset fashion_mnist --seed "$SEED" \
        --vae_channels 16,32,64 --latent_channels 8 --kl_weight 1e-3 \
        --epochs 5 --batch_size 16 --learning_rate 1e-3 --warmup_epochs 0.05 --save_dir "$OUT/DiT-6x160-2" --resume ;;
    dit) "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" \
        train_dit.py --stage dit --dataset fashion_mnist --seed "$SEED" \
        --vae_channels 16,32,64 --latent_channels 8 --depth 6 --width 160 --heads 5 --patch_size 2 \
        --label_dropout 0.1 --snr_gamma 5 --ema 0.9995 \
        --epochs 40 --batch_size 128 --learning_rate 1e-3 --warmup_epochs 1 --save_dir "$OUT/DiT-6x160-2" --resume ;;
    *) echo "error: no stage $stage: teacher, weaker_teacher, vae, dit" >&2; exit 2 ;;
    esac
done
