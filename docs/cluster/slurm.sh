#!/bin/bash
# One meta-training run over 4 nodes: sbatch docs/cluster/slurm.sh. Submitted again, it goes on from its last checkpoint.
#SBATCH --job-name=lopt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# Before the time is up, every process gets SIGTERM: the run saves and ends.
#SBATCH --signal=TERM@300

# With GPUs, which Slurm gives one to each process: --gpus-per-node=8 --ntasks-per-node=8 in place of the cores.
# --kill-on-bad-exit: when one process fails, Slurm ends the others, which have the same to say.
srun --kill-on-bad-exit=1 --cpu-bind=cores \
    python -m lopt train --distributed \
    --workdir="$SLURM_SUBMIT_DIR/runs/wide" --tasks=pool_wide --num_pairs=128 --outer_steps=100000 --checkpoint_every=50
status=$?

# 143: stopped by SIGTERM and saved. 75: a process of the run was lost. Both go on in the next turn of the same job.
if [ "$status" -eq 143 ] || [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
