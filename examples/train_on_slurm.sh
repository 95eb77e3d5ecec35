#!/usr/bin/env bash
# Supernet training on several machines of a Slurm cluster: sbatch examples/train_on_slurm.sh /data/imagenet
# A preempted job (SIGTERM) saves and ends with exit code 75; Slurm queues it again, and then it resumes.
# Nothing of this project was tried on a cluster: adapt nodes, GPUs and processors to yours.
#SBATCH --job-name=nasdeploy
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

images=${1:?give the folder that holds train/CLASS/ and test/CLASS/}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# With one store for all rounds of the rendezvous, PyTorch's default, a node that comes back does not find the others.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29400" \
    --no-python nasdeploy train alphanet-imagenet --data "$images"
