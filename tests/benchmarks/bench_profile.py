"""What a latency table costs and what it is worth: time for blocks and networks, error on networks held out.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_profile [--space digits] [--classes 10] [--held-out N] [--in DIR]
    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_profile --ablate [--space digits] [--classes 10] [--held-out N]

The second prints the errors of tables that are made without each mechanism of the protocol. The first also prints how
far two measurements of the same held-out networks are from each other, and whether the quick model that is measured
runs as fast as the deliverable. The table stays in DIR if one is given. Needs a quiet machine.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from nasdeploy.convert import quick_onnx, to_onnx
from nasdeploy.core.arch import Arch
from nasdeploy.core.progress import Progress, Work
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.measure import measure
from nasdeploy.latency.profile import profile, randomise_norms
from nasdeploy.latency.protocol import MeasurementProtocol
from nasdeploy.latency.table import LatencyTable, table_path
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.spaces import SPACES, load_space
from tests.benchmarks.ablation import ablate
from tests.benchmarks.bench_predictors import STATISTICS, measure_again, networks_of, report


class Stopwatch(Progress):
    """Prints what each task took."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Work]:
        """As of `Progress`."""
        start = perf_counter()
        with super().task(name, total, done) as task:
            yield task
        print(f"{name.removesuffix(', visits')}: {perf_counter() - start:.1f} s")


def report_table(table: LatencyTable, space: SearchSpace) -> None:
    """Print the calibration and the error on held-out networks."""
    start = perf_counter()
    fastest, slowest = table.range(space)
    took = perf_counter() - start
    print(f"range {1e3 * fastest:.3f} to {1e3 * slowest:.3f} ms, found in {took:.2f} s; {table.calibration}")
    noisy = sum(timing.noisy for timing in table.entries.values())
    print(f"noisy: {noisy} of {len(table.entries)} blocks, {sum(n.timing.noisy for n in table.networks)} networks")
    plain = [n.entries / n.timing.undisturbed - 1 for n in table.networks if n.role == "held-out"]
    print(f"held out: {table.held_out}\nundisturbed: {table.held_out_undisturbed}")
    print(f"plain sum, for comparison: mean absolute error {sum(map(abs, plain)) / len(plain):.4f}")


def report_repeatability(table: LatencyTable, space: SearchSpace, progress: Progress) -> None:
    """Print what measuring the held-out networks once more differs by, which no prediction can be better than."""
    again = measure_again(table, space, progress)
    for statistic in STATISTICS:
        networks, seconds = networks_of(table, space, "held-out", statistic)
        report(f"measured again, {statistic}", np.array([again[a.text][statistic] for a in networks.archs]), seconds)


def report_exporters(archs: dict[str, Arch], space: SearchSpace, device: Device, progress: Progress) -> None:
    """Print the latency of the deliverable relative to that of the quick model, interleaved."""
    models = {}
    for name, arch in archs.items():
        network = Network(space.plan(arch))
        randomise_norms(network)
        types = [tensor for _, tensor in network.plan.only.inputs]
        models[f"{name} quick"] = quick_onnx(network, types, device.batch)
        models[f"{name} deliverable"] = to_onnx(network)
    runtime, protocol = runtime_of(device), MeasurementProtocol()
    openers = {name: partial(runtime.open, model, device) for name, model in models.items()}
    with progress.task("measuring both exports", len(openers) * protocol.networks.visits) as task:
        groups = measure(openers, protocol.networks, protocol, on_visit=task.advance)
        timings = {name: timing for group in groups for name, timing in group.items()}
    for name in archs:
        quick, deliverable = timings[f"{name} quick"], timings[f"{name} deliverable"]
        print(
            f"{name}: deliverable {1e3 * deliverable.median:.3f} ms, quick {1e3 * quick.median:.3f} ms, "
            f"ratio {deliverable.median / quick.median:.4f} (p90/p50 {deliverable.spread:.3f}, {quick.spread:.3f})"
        )


def main() -> None:
    """Profile a space from the start and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="alphanet", choices=sorted(SPACES))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--held-out", type=int, default=MeasurementProtocol.held_out_networks)
    parser.add_argument("--in", dest="directory", type=Path)
    parser.add_argument("--ablate", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space, device, progress = load_space(arguments.space, arguments.classes), load_device("cpu"), Stopwatch(quiet=True)
    if arguments.ablate:
        ablate(space, device, MeasurementProtocol(held_out_networks=arguments.held_out))
        return
    ends = {"smallest": space.smallest(), **space.named, "largest": space.largest()}
    with TemporaryDirectory() as folder:
        path = table_path(space, device, arguments.directory or Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        table = profile(
            space, device, path, progress, protocol=MeasurementProtocol(held_out_networks=arguments.held_out)
        )
    report_table(table, space)
    report_repeatability(table, space, progress)
    report_exporters(ends, space, device, progress)


if __name__ == "__main__":
    main()
