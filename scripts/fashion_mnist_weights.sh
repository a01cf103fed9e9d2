#!/bin/sh
# Trains the weights in this repository from scratch, on Fashion-MNIST's first 55,000 training
# images: the two teachers, the autoencoder, and the DiT on its latents. Each stage resumes where it
# was stopped; a finished one is skipped. Hours on two CPU cores.
#   sh scripts/fashion_mnist_weights.sh vae dit      some of the stages
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-save/models/fashion_mnist_again}      # the shipped files stay as they are
SEED=${SEED:-0}
# Processes of the DiT's training. On a CPU, two with one thread are faster than one with two.
GPUS=${PROCESSES:-2}
TAKES_ARGUMENTS=yes
. scripts/common.sh
[ $# -gt 0 ] || set -- teacher weaker_teacher vae dit

"$PYTHON" -m tools.fashion_mnist
for stage; do
    case $stage in
    teacher) "$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet20 --seed "$SEED" \
        --epochs 16 --batch_size 128 --learning_rate 0.1 --schedule cosine --warmup_epochs 1 \
        --weight_decay 5e-4 --resume ${TABLE:+--table "$TABLE"} --save_dir "$OUT/resnet20" ;;
    weaker_teacher) "$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet8 \
        --seed "$SEED" --epochs 2 --batch_size 128 --learning_rate 0.1 --schedule cosine \
        --warmup_epochs 0.3 --weight_decay 5e-4 --resume --save_dir "$OUT/resnet8" ;;
    vae) "$PYTHON" train_dit.py --stage vae --dataset fashion_mnist --seed "$SEED" \
        --vae_channels 16,32,64 --latent_channels 8 --kl_weight 1e-3 --epochs 5 --batch_size 16 \
        --learning_rate 1e-3 --warmup_epochs 0.05 --resume --save_dir "$OUT/DiT-6x160-2" ;;
    dit) "$PYTHON" $TORCHRUN train_dit.py --stage dit --dataset fashion_mnist --seed "$SEED" \
        --vae_channels 16,32,64 --latent_channels 8 --depth 6 --width 160 --heads 5 \
        --patch_size 2 --label_dropout 0.1 --snr_gamma 5 --ema 0.9995 --epochs 40 \
        --batch_size 128 --learning_rate 1e-3 --warmup_epochs 1 --resume \
        --save_dir "$OUT/DiT-6x160-2" ;;
    *) echo "error: no stage $stage: teacher, weaker_teacher, vae, dit" >&2; exit 2 ;;
    esac
done
