"""What `make demo` does, in an empty directory: its time by step, and the figures of the network that comes out.

python tests/benchmarks/bench_demo.py
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter


def main() -> None:
    """Run the digits recipe step by step and print what it took."""
    with TemporaryDirectory() as directory:
        steps = (["train", "digits"], ["profile"], ["search", "--latency", "40%"], ["export"])
        began, results = perf_counter(), {}
        for arguments in steps:
            start = perf_counter()
            command = [Path(sys.executable).with_name("nasdeploy"), *arguments, "--json", "--quiet"]
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
            results[arguments[0]] = json.loads(done.stdout)
            print(f"{arguments[0]:8} {perf_counter() - start:6.1f} s")
        print(f"{'all':8} {perf_counter() - began:6.1f} s")
    proof = results["export"]["artefacts"][0]["proof"]
    low, high = proof["accuracy"]["interval"]
    budget = results["search"]["budget"]["latency"]["cpu"]["median_ms"][1]
    print(
        f"test top-1 of the file: {100 * proof['accuracy']['top1']:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})"
    )
    print(f"measured median: {proof['latency']['median_ms']:.4f} ms, budget {budget:.4f} ms")
    error = results["profile"]["held_out"]
    print(f"table: mean error {100 * error['mean_absolute']:.2f} %, Spearman {error['spearman']:.4f}")


if __name__ == "__main__":
    main()
