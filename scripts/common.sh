# Sourced by the recipes, from the repository's root, below their variables. Sets:
#   PYTHON     the interpreter, .venv/bin/python unless one is given
#   TORCHRUN   starts a script in $GPUS processes:  "$PYTHON" $TORCHRUN train_student.py …
#   PAIRS      teacher:student pairs of CIFAR-100, all five of the paper unless some are given
# Results go to the table $TABLE, if it is given (scripts/run_cells.sh sets it).
# A script that takes arguments sets TAKES_ARGUMENTS first.
fail() { echo "error: $*" >&2; exit 2; }

[ $# -eq 0 ] || [ -n "${TAKES_ARGUMENTS:-}" ] ||
    fail "$1: settings are variables in front of the command, such as SEED=1 sh scripts/NAME.sh"

PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" > /dev/null ||
    fail "$PYTHON not found: run sh scripts/install.sh, or set PYTHON=path/to/python"

PAIRS=${PAIRS:-"resnet34:resnet18 vgg11:resnet18
    wrn_40_2:wrn_16_1 wrn_40_2:wrn_40_1 wrn_40_2:wrn_16_2"}

case ${GPUS:-1} in
*[!0-9]* | 0*)
    fail "GPUS is $GPUS: give a number of processes; CUDA_VISIBLE_DEVICES=0,1 chooses the GPUs" ;;
esac

# One machine, or machine $NODE of $NODES whose first has the address $MASTER (host:port).
if [ "${NODES:-1}" = 1 ] && [ -z "${MASTER:-}" ]; then
    TORCHRUN="-m torch.distributed.run --standalone --nproc_per_node ${GPUS:-1}"
else
    MASTER=${MASTER:?several machines need the address of the first: MASTER=host:port}
    NODE=${NODE:?several machines need the number of this one, 0 for the first: NODE=0}
    case $MASTER in
    ?*:[0-9]*) ;;
    *) fail "MASTER is $MASTER: give the address of the first machine, MASTER=host:port" ;;
    esac
    TORCHRUN="-m torch.distributed.run --nnodes ${NODES:-1} --node_rank $NODE
        --nproc_per_node ${GPUS:-1} --master_addr ${MASTER%:*} --master_port ${MASTER##*:}"
fi

# check_pairs FORM: exits unless each of PAIRS has as many parts as FORM, such as teacher:student.
check_pairs() {
    for PAIR in $PAIRS; do
        [ "$(echo "$PAIR" | tr -cd :)" = "$(echo "$1" | tr -cd :)" ] ||
            fail "PAIRS has $PAIR: write $1, with blanks between the pairs"
    done
}

# cut_patches SIZE: One-Image's training set, $AMOUNT patches of SIZE pixels from the photograph
# $IMAGE (default: a small one that matplotlib ships). Sets IMAGES to their folder. If IMAGES is
# given, that folder is used as it is and nothing is cut.
cut_patches() {
    [ -z "${IMAGES:-}" ] || return 0
    PHOTOGRAPH=$(basename "${IMAGE:-default}")
    IMAGES=syn_dataset/one-image_${PHOTOGRAPH%.*}_$1_seed$IMAGE_SEED
    "$PYTHON" synthesize_baseline.py --method one-image ${IMAGE:+--image "$IMAGE"} \
        --image-size "$1" --data_amount "$AMOUNT" --seed "$IMAGE_SEED" --save_dir "$IMAGES"
}
