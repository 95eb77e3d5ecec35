"""What a quota of processors' time does to `devices`, `table check --strict` and the images/s of `bench`.

    python -m tests.benchmarks.bench_quota BUNDLE TABLE [--cpus 0.5 1.5]

As root, where control groups can be made. The images that are really done are counted by a process of the same quota
that opens the bundle's model in ONNX Runtime and knows nothing of nasdeploy. With a quota above one processor a process
of one thread is not stopped: the table is refused all the same, since the machine is another one.
"""

import argparse
import json
import sys
from pathlib import Path

from tests.quota import quota_of, run_in

_NASDEPLOY = "from nasdeploy.cli.main import main; main()"
_COUNT = """
import sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
(given,) = session.get_inputs()
shape = [side if isinstance(side, int) else 1 for side in given.shape]
image = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(shape, numpy.float32))
binding = session.io_binding()
binding.bind_ortvalue_input(given.name, image)
binding.bind_output(session.get_outputs()[0].name)
session.run_with_iobinding(binding)
calls, start = 0, time.perf_counter()
while time.perf_counter() - start < 10:
    session.run_with_iobinding(binding)
    calls += 1
print(calls / (time.perf_counter() - start))
"""


def main() -> None:
    """Print what each quota does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("table")
    parser.add_argument("--cpus", type=float, nargs="+", default=[0.5, 1.5])
    given = parser.parse_args()
    nasdeploy = [sys.executable, "-c", _NASDEPLOY]
    for cpus in given.cpus:
        with quota_of(cpus) as group:
            print(f"quota {cpus:g}:", run_in(group, [*nasdeploy, "devices", "cpu"]).stdout.splitlines()[-1])
            check = run_in(group, [*nasdeploy, "table", "check", given.table, "--strict", "--quiet"])
            print(f"  table check --strict: exit code {check.returncode}, {check.stderr.strip()}")
            bench = run_in(group, [*nasdeploy, "bench", str(given.bundle), "--json", "--quiet"])
            (row,) = json.loads(bench.stdout)["models"]
            counted = float(run_in(group, [sys.executable, "-c", _COUNT, str(given.bundle / "model.onnx")]).stdout)
            print(
                f"  bench: {row['images_per_s']:.5g} images/s in {row['throughput_s']:.2g} s, {counted:.5g} counted "
                f"({row['images_per_s'] / counted:.3f} of them); 1/median {1e3 / row['median_ms']:.5g}; "
                f"noise: {row['noise'] or 'none'}"
            )


if __name__ == "__main__":
    main()
