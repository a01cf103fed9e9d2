#!/bin/sh
# ImageNet-1K, the row "One-Image": 1.28M patches of 256 pixels of one photograph, then a ResNet50 on them from a ResNet18,
# with the method's own recipe (the paper: 66.20 %, 200 epochs): AdamW at 0.01, weight decay 5e-4, 512 images a GPU, τ = 8
# without the factor τ², CutMix β(1, 1) in every batch, bicubic crops and changes of colour.
# The published photographs have 2,500 pixels a side and more: give yours as IMAGE. Needs the teacher (scripts/imagenet_teachers.sh) and
# the validation set. Assumed: a cosine from 0.01 to 0.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${GPUS:-8}
IMAGE=${IMAGE:?give the photograph: IMAGE=photograph.jpg sh scripts/imagenet_one_image.sh}
AMOUNT=${AMOUNT:-1.28m}
TEACHER=${TEACHER:-save/models/ResNet18/resnet18.pth}
STUDENT=${STUDENT:-ResNet50}
EPOCHS=${EPOCHS:-200}
SEED=${SEED:-0}
IMAGES=syn_dataset/one-image_$(basename "${IMAGE%.*}")_256_seed$SEED

"$PYTHON" synthesize_baseline.py --method one-image --image "$IMAGE" --image-size 256 --data_amount "$AMOUNT" \
    --seed "$SEED" --save_dir "$IMAGES"
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    train_student.py --dataset imagenet --path-t "$TEACHER" --model_s "$STUDENT" --train_data "$IMAGES" --data_amount "$AMOUNT" \
    --batch_size "$((512 * GPUS))" --epochs "$EPOCHS" --optimizer adamw --learning_rate 0.01 --weight_decay 5e-4 --schedule cosine \
    --kd_T 8 --no_tau2 --use_aug cutmix --mix_beta 1 --augment colour --num_workers 32 --seed "$SEED" --resume \
    --experiments_dir "imagenet_$STUDENT" --experiments_name "one-image_${AMOUNT}_${EPOCHS}epochs_seed$SEED"
