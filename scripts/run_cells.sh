#!/bin/sh
# Called by scripts/table*.sh: runs the cells of a table in order. Each line of
# scripts/cells/TABLE.txt is a cell: a recipe with its variables. A finished cell returns at once.
# If one fails, its number is printed, the others still run, and the exit code at the end is 1.
#   sh scripts/table1_cifar100.sh                 all cells
#   CELL=3 sh scripts/table1_cifar100.sh          the third alone
#   sbatch --array=6-44 --wrap 'CELL=$SLURM_ARRAY_TASK_ID sh scripts/table1_cifar100.sh'
#   SEED=1 GPUS=4 sh scripts/table2_imagenet.sh   another seed of the students, four processes
set -eu
cd "$(dirname "$0")/.."
export SEED="${SEED:-0}"
export TABLE="${1:?name a table: a file of scripts/cells/, without .txt}"
shift                                    # common.sh refuses further arguments
. scripts/common.sh
export PYTHON
CELL=${CELL:-}
CELLS=scripts/cells/$TABLE.txt
NUMBER=0
FAILED=

[ -f "$CELLS" ] || { echo "error: no table $CELLS" >&2; exit 2; }
TOTAL=$(grep -c '^[^#]' "$CELLS")
case $CELL in
*[!0-9]*) VALID= ;;
'') VALID=yes ;;
*) VALID=$([ "$CELL" -lt 1 ] || [ "$CELL" -gt "$TOTAL" ] || echo yes) ;;
esac
[ -n "$VALID" ] || { echo "error: CELL is $CELL: $CELLS has the cells 1 to $TOTAL" >&2; exit 2; }

while IFS= read -r LINE; do
    case $LINE in '' | '#'*) continue ;; esac
    NUMBER=$((NUMBER + 1))
    [ "${CELL:-$NUMBER}" -eq "$NUMBER" ] || continue
    printf '\n[%s of %s] %s\n' "$NUMBER" "$TOTAL" "$LINE"
    CODE=0
    (eval "$LINE") < /dev/null || CODE=$?
    if [ "$CODE" -gt 128 ]; then             # stopped by a signal: run no further cell
        echo "cell $NUMBER was stopped: run again to resume" >&2
        exit "$CODE"
    elif [ "$CODE" -ne 0 ]; then
        echo "cell $NUMBER failed with exit code $CODE" >&2
        FAILED="$FAILED $NUMBER"
    fi
done < "$CELLS"

[ -z "$FAILED" ] || { echo "failed cells of $CELLS:$FAILED" >&2; exit 1; }
