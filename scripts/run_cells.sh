#!/bin/sh
# Called by scripts/table*.sh: runs the cells of a table, a line each of scripts/cells/TABLE.txt, in order.
# A finished one returns at once; one that fails is named and the others still run (exit code 1 at the end then).
#   sh scripts/table1_cifar100.sh                 all
#   CELL=3 sh scripts/table1_cifar100.sh          the third alone
#   sbatch --array=6-44 --wrap 'CELL=$SLURM_ARRAY_TASK_ID sh scripts/table1_cifar100.sh'
#   SEED=1 GPUS=4 sh scripts/table2_imagenet.sh   another seed of the students, four processes
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
CELL=${CELL:-}
CELLS=scripts/cells/${1:?name a table: one of scripts/cells/, without .txt}.txt
NUMBER=0
FAILED=

python() { "$PYTHON" "$@"; }

[ -f "$CELLS" ] || { echo "error: no table $CELLS" >&2; exit 2; }
TOTAL=$(grep -c '^[^#]' "$CELLS")
case $CELL in
*[!0-9]*) TOO_FAR=yes ;;
'') TOO_FAR= ;;
*) TOO_FAR=$([ "$CELL" -ge 1 ] && [ "$CELL" -le "$TOTAL" ] || echo yes) ;;
esac
[ -z "$TOO_FAR" ] || { echo "error: CELL is $CELL: $CELLS has the cells 1 to $TOTAL" >&2; exit 2; }

while IFS= read -r LINE; do
    case $LINE in '' | '#'*) continue ;; esac
    NUMBER=$((NUMBER + 1))
    [ "${CELL:-$NUMBER}" -eq "$NUMBER" ] || continue
    printf '\n[%s of %s] %s\n' "$NUMBER" "$TOTAL" "$LINE"
    CODE=0
    (eval "$LINE") < /dev/null || CODE=$?
    if [ "$CODE" -gt 128 ]; then             # a signal: whoever sent it wants no further cell
        echo "cell $NUMBER was stopped: run again to go on" >&2
        exit "$CODE"
    elif [ "$CODE" -ne 0 ]; then
        echo "cell $NUMBER failed with exit code $CODE" >&2
        FAILED="$FAILED $NUMBER"
    fi
done < "$CELLS"

[ -z "$FAILED" ] || { echo "failed cells of $CELLS:$FAILED" >&2; exit 1; }
