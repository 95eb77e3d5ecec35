"""How many visits to a network, and of how many runs, tell its undisturbed time on a machine that is not quiet.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_visits [--space ofa-mbv3] [--networks 15] [--seconds 150]

Whole networks, spread over the range of MACs, are open together and visited in turn, six runs each time, for so many
seconds. Printed is how long the first, second, ... run of a visit takes, undisturbed (10th percentile over visits), and
then what protocols would have found, played through on windows of the recorded visits: the standard deviation of the
undisturbed time between windows, mean over networks, by the number of visits in a row and by which runs of each count.
Windows of a shorter protocol would have been shorter here: a visit of four runs takes two thirds of one of six.
"""

import argparse
import gc
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Floats
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import stratified
from nasdeploy.latency.profile import network_model
from nasdeploy.latency.protocol import UNDISTURBED
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.runtimes.runtime import LocalTarget, Session
from nasdeploy.spaces import load_space

RUNS = 6
"""The runs of a visit."""
COUNTED = {"runs 2 to 6": slice(1, 6), "runs 3 and 4": slice(2, 4), "run 4": slice(3, 4)}
"""Which runs of a visit may count."""
VISITS = (10, 15, 20, 30, 40, 60)


def recorded(sessions: Sequence[Session], seconds: float) -> Floats:
    """Return the seconds of runs `[visits, sessions, RUNS]`."""
    visits, ends = [], perf_counter() + seconds
    gc.disable()
    while perf_counter() < ends:
        visits.append([[run_s(session) for _ in range(RUNS)] for session in sessions])
    return np.array(visits)


def run_s(session: Session) -> float:
    """Return the seconds of a call."""
    began = perf_counter()
    session.call()
    return perf_counter() - began


def deviation(runs: Floats, visits: int) -> float:
    """Return by how much, relatively, the undisturbed time differs between windows of so many visits in a row."""
    starts = range(0, len(runs) - visits + 1, max(visits // 2, 1))
    found = [np.percentile(runs[start : start + visits], UNDISTURBED, axis=(0, 2)) for start in starts]
    return float(np.log(found).std(axis=0).mean())


def report(runs: Floats) -> None:
    """Print both tables."""
    positions = np.percentile(runs, UNDISTURBED, axis=0) * 1e3
    print(f"{len(runs)} visits; undisturbed milliseconds of the 1st to the {RUNS}th run of a visit")
    for place in (0, len(positions) // 2, len(positions) - 1):
        print("  " + "".join(f"{value:8.2f}" for value in positions[place]))
    print(f"{'deviation between windows, %':30}" + "".join(f"{visits:>5} visits" for visits in VISITS))
    for name, counted in COUNTED.items():
        cells = (f"{100 * deviation(runs[:, :, counted], n):12.2f}" for n in VISITS if 3 * n <= len(runs))
        print(f"{name:30}" + "".join(cells))


def sessions_of(space: SearchSpace, archs: Sequence[Arch]) -> list[Session]:
    """Open networks with random weights in ONNX Runtime."""
    device = load_device("cpu")
    runtime, target = runtime_of(device), LocalTarget.of(device)
    return [runtime.open(network_model(space.plan(arch), device), target) for arch in archs]


def main() -> None:
    """Record the runs, and print what protocols would have found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa-mbv3")
    parser.add_argument("--networks", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(given.space, 1000)
    archs = stratified(space, macs, given.networks, generator(0, "visits"))
    report(recorded(sessions_of(space, archs), given.seconds))


if __name__ == "__main__":
    main()
