"""Calls back to back and after gaps, in ONNX Runtime and OpenVINO, as `nasdeploy bench --gap-ms` measures them.

    python -m tests.benchmarks.bench_gaps BUNDLE [--gap-ms 100]

On a quiet machine; three times, since gaps find each minute another one.
"""

import argparse
import json
import subprocess
import sys

DEVICES = ("cpu", "cpu-openvino")
_TIMES = 3
_NASDEPLOY = "from nasdeploy.cli.main import main; main()"


def measured(bundle: str, device: str, gap_ms: float) -> dict[str, float]:
    """Medians in milliseconds of one call of `bench`, the spread between its processes, and images a second."""
    command = [sys.executable, "-c", _NASDEPLOY, "bench", bundle, "--device", device]
    command += ["--gap-ms", str(gap_ms), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["models"]
    after = row["after_gaps"]
    return {
        "back to back": row["median_ms"],
        "after gaps": after["median_ms"],
        "ratio": after["median_ms"] / row["median_ms"],
        "p95 after gaps": after["p95_ms"],
        "processes apart": row["processes_ms"][-1] / row["processes_ms"][0],
        "images/s": row["images_per_s"],
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--gap-ms", type=float, default=100.0)
    given = parser.parse_args()
    for device in DEVICES:
        for _ in range(_TIMES):
            found = measured(given.bundle, device, given.gap_ms)
            print(device, *(f"{name} {value:.4g}" for name, value in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
