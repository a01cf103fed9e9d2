#!/bin/sh
# The whole method on real data: samples labelled garments with a small DiT, distils a student on
# them from a frozen teacher, and evaluates it on the 10,000 real test images of Fashion-MNIST.
# 6 to 8 minutes on two CPU cores, after the installation. Run again, it does what is missing.
#   SEED=1 sh scripts/quickstart.sh          another seed; all variables below can be given
#   SPLIT=holdout sh scripts/quickstart.sh   evaluates on the images that settings are chosen on
#   SOURCE=real sh scripts/quickstart.sh     the same recipe on as many real images
set -eu
cd "$(dirname "$0")/.."
GENERATOR=${GENERATOR:-save/models/fashion_mnist/DiT-6x160-2}
TEACHER=${TEACHER:-save/models/fashion_mnist/resnet20/resnet20_latest.pth}
STUDENT=${STUDENT:-resnet8}
SOURCE=${SOURCE:-generated}      # or real
SCALE=${SCALE:-1}                # guidance scale s; 1: no guidance, at half the cost
SAMPLER=${SAMPLER:-dpmsolver++}  # or ddim; ddpm, the ancestral chain, with SPACING= STEPS=100
SPACING=${SPACING-leading}       # of the timesteps; SPACING= for the sampler's usual one
STEPS=${STEPS:-5}                # sampling steps T
IMAGES=${IMAGES:-16000}
EPOCHS=${EPOCHS:-12}
BATCH=${BATCH:-32}
AMP=${AMP:-$(grep -qs amx_bf16 /proc/cpuinfo && echo bf16 || echo auto)}  # fast where CPUs have AMX
RATE=${RATE:-0.05}               # learning rate
DISTILL=${DISTILL:-dist}         # loss; or kd (KL), dkd
TEMPERATURE=${TEMPERATURE:-4}
MIXING=${MIXING:-mixup}          # or none, cutmix
SEED=${SEED:-0}                  # of the images and of the student
SPLIT=${SPLIT:-test}
DATA=${DATA:-true_dataset}
TABLE=${TABLE:-quickstart}       # in result.json; make_tables.py leaves these runs out
DIR=${DIR:-quickstart}           # folder of the run below save/student_model
case $SOURCE in
generated)
    TRAIN_DATA=quickstart_$(basename "$GENERATOR")_${SAMPLER}_s${SCALE}_T$STEPS
    TRAIN_DATA=syn_dataset/$TRAIN_DATA${SPACING:+_$SPACING}_seed$SEED ;;
real) TRAIN_DATA=real ;;
*) echo "error: SOURCE is $SOURCE: generated or real" >&2; exit 2 ;;
esac
NAME=${STUDENT}_$(basename "$TRAIN_DATA")_${IMAGES}x${EPOCHS}_batch${BATCH}_amp-$AMP
NAME=${NAME}_${DISTILL}_seed${SEED}_$SPLIT
RUN=${RUN:-$NAME}

REQUIREMENTS=requirements.txt
. scripts/setup.sh
START=$(date +%s)

echo "1/4 real Fashion-MNIST, for the evaluation"
"$PYTHON" -m tools.fashion_mnist --root "$DATA"

if [ "$SOURCE" = generated ]; then
    echo "2/4 sampling $IMAGES labelled images: s = $SCALE, T = $STEPS, $SAMPLER $SPACING"
    "$PYTHON" synthesize_dit.py --model "$GENERATOR" --sampler "$SAMPLER" \
        ${SPACING:+--timestep_spacing "$SPACING"} --num-sampling-steps "$STEPS" \
        --cfg-scale "$SCALE" --data_amount "$IMAGES" --batch_size 100 --seed "$SEED" \
        --save_dir "$TRAIN_DATA"
fi

echo "3/4 distilling a $STUDENT on them, from random initialisation"
"$PYTHON" train_student.py --dataset fashion_mnist \
    --data_root "$DATA" --val_split "$SPLIT" --path-t "$TEACHER" --model_s "$STUDENT" \
    --train_data "$TRAIN_DATA" --data_amount "$IMAGES" --epochs "$EPOCHS" --batch_size "$BATCH" \
    --learning_rate "$RATE" --schedule cosine --warmup_epochs 1 --weight_decay 5e-4 \
    --distill "$DISTILL" --kd_T "$TEMPERATURE" --use_aug "$MIXING" --amp "$AMP" --seed "$SEED" \
    --table "$TABLE" --experiments_dir "$DIR" --experiments_name "$RUN" --resume

echo "4/4 the result"
"$PYTHON" -m tools.summary "save/student_model/$DIR/$RUN" "$TRAIN_DATA" $(($(date +%s) - START))
