"""What two processes send each other in a step, and how far their training is from one process with twice the batch.

    python tests/benchmarks/bench_ranks.py [SPACE ...]

Bytes are counted at PyTorch's own functions, on one of two processes (gloo).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).parents[2]
TORCHRUN = (
    str(Path(sys.executable).with_name("torchrun")),
    *("--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
)


def output(*command: str) -> str:
    """What a command prints; raises `CalledProcessError` if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def print_bytes(space: str) -> None:
    """Of one reduction a step, and of one after each network."""
    counts = json.loads(output(*TORCHRUN, str(ROOT / "tests/training/counted.py"), space))
    step, each = counts["four"], counts["each"]
    sent, gradients, fourfold = sum(step["reduced"]), step["gradients"], sum(each["reduced"])
    print(
        f"{space}: {len(step['reduced'])} reduction of {sent / 1e6:.3f} MB a step with four networks, gradients "
        f"{gradients / 1e6:.3f} MB ({sent - gradients} bytes more); a reduction after each network: "
        f"{len(each['reduced'])} of {fourfold / 1e6:.3f} MB together, {fourfold / sent:.2f} times as much"
    )


def print_differences() -> None:
    """Between the weights of two processes and of one with twice the batch, five steps on."""
    script = str(ROOT / "tests/training/ranked.py")
    with TemporaryDirectory() as directory:
        files = [f"{directory}/{name}.pt" for name in ("one", "two")]
        output(sys.executable, script, files[0])
        output(*TORCHRUN, script, files[1])
        one, two = (torch.load(file, weights_only=True) for file in files)
    for exact, name in ((True, "float64"), (False, "float32")):
        difference = max(float((one[exact][key] - two[exact][key]).abs().max()) for key in one[exact])
        largest = max(float(value.abs().max()) for value in one[exact].values())
        print(f"two processes against one with twice the batch, {name}: weights differ by at most {difference:.1e}")
        print(f"  (the largest weight is {largest:.2f})")


def main() -> None:
    """Print both."""
    for space in sys.argv[1:] or ("digits", "cifar10", "alphanet"):
        print_bytes(space)
    print_differences()


if __name__ == "__main__":
    main()
