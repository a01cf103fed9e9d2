#!/bin/sh
# scripts/imagenet_distill.sh as a preemptible Slurm job:  sbatch scripts/imagenet_distill_slurm.sh
# The job receives SIGTERM when it is preempted, or three minutes before its time limit, and passes
# it on to every process. They agree on a step within --print-freq steps, save and exit; then the
# job is requeued and resumes. (torchrun gives its processes 30 seconds to exit: keep --print-freq
# below that many seconds of steps.)
#SBATCH --job-name=dm-kd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=save/slurm_%j.log
set -eu
[ $# -eq 0 ] || { echo "error: $1: settings are variables: EPOCHS=200 sbatch …" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:-.}"              # sbatch runs a copy: submit from the repository's root
export GPUS="${GPUS:-8}"
export NODES="${SLURM_JOB_NUM_NODES:-1}"
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500
export MASTER

STOPPED=
trap 'STOPPED=yes; kill -TERM "$RUN"' TERM
srun sh -c 'exec env NODE="$SLURM_NODEID" sh scripts/imagenet_distill.sh' &
RUN=$!
CODE=0
wait "$RUN" || CODE=$?
if [ -n "$STOPPED" ]; then               # the trap ended the first wait; the processes still save
    wait "$RUN" || true
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
