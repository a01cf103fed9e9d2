#!/bin/sh
# The two teachers that are shipped, a stronger and a weaker one, trained on Fashion-MNIST's first 55,000 training
# images. Run it again to go on where it was stopped. On two slow CPU cores: about 25 minutes and 5.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SEED=0

"$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet20 --seed $SEED --epochs 4 \
    --schedule cosine --learning_rate 0.1 --warmup_epochs 0.3 --batch_size 128 --weight_decay 5e-4 --resume
"$PYTHON" train_teacher.py --dataset fashion_mnist --model resnet8 --seed $SEED --epochs 2 \
    --schedule cosine --learning_rate 0.1 --warmup_epochs 0.3 --batch_size 128 --weight_decay 5e-4 --resume
