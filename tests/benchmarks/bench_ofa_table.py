"""Once-for-all's space on this machine: its latency table, and how well accuracy predictors rank its networks.

Prints the number of distinct blocks, the seconds for blocks and for whole networks, and the error of the table on whole
networks that are held out. Then each kind of predictor is fitted on networks of made-up accuracies, which are concave
in MACs with something added for pairs of choices, and have the noise of so many held-out images; it is judged on others
without noise. (`bench_accuracy_predictor.py --recipe ofa-mbv3-cifar10` does so with networks that were trained.)

OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_ofa_table [--space ofa-mbv3] [--resolutions 128,176,224]
    [--held-out 40] [--in DIR] [--fit 200,1000] [--judge 500] [--images 10000] [--only table|predictors]

The table needs a quiet machine. It stays in DIR if one is given, and is gone on with there if it was stopped.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.latency.profile import profile
from nasdeploy.latency.protocol import MeasurementProtocol
from nasdeploy.latency.table import table_path
from nasdeploy.runtimes.device import load_device
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.predictor import fit, quality_of
from nasdeploy.spaces import load_settings
from tests.benchmarks.bench_profile import Stopwatch, report_table

CLASSES = 1000
RANGE, RUGGED = 0.12, 0.12
"""Top-1 between the fewest and the most MACs, and what pairs of choices add from the worst of all to the best of all:
about half a point between networks of equal MACs."""


def main() -> None:
    """Print both parts, or one."""
    arguments = _arguments()
    settings = load_settings(arguments.space)
    if arguments.resolutions:
        settings = settings.model_copy(update={"resolution": tuple(map(int, arguments.resolutions.split(",")))})
    space = settings.build(CLASSES)
    print(f"{space.name}: {space.networks:.3g} networks of {len(space.distinct_blocks())} distinct blocks")
    if arguments.only != "predictors":
        _table(space, arguments)
    if arguments.only != "table":
        _predictors(space, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa-mbv3", choices=("ofa-mbv3", "ofa-mbv3-w1.2"))
    parser.add_argument("--resolutions", help="some of the space's, with commas; by default all")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--in", dest="directory", type=Path)
    parser.add_argument("--fit", default="200,1000,4000")
    parser.add_argument("--judge", type=int, default=500)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", choices=("table", "predictors"))
    return parser.parse_args()


def _table(space: SearchSpace, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    device, began = load_device("cpu"), perf_counter()
    with TemporaryDirectory() as folder:
        path = table_path(space, device, arguments.directory or Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        protocol = MeasurementProtocol(held_out_networks=arguments.held_out)
        table = profile(space, device, path, Stopwatch(quiet=True), protocol=protocol)
    print(f"{len(table.entries)} blocks and {len(table.networks)} networks in {perf_counter() - began:.0f} s")
    report_table(table, space)


def _predictors(space: SearchSpace, arguments: argparse.Namespace) -> None:
    rng, sizes = generator(0, "predictors"), [int(size) for size in arguments.fit.split(",")]
    codes = space.canonical(space.sample_codes(max(sizes) + arguments.judge, rng))
    true = _made_up(space, codes)
    seen = rng.binomial(arguments.images, true) / arguments.images
    judged = slice(-arguments.judge, None)
    print(f"top-1 from {true.min():.4f} to {true.max():.4f}, standard deviation {100 * true.std():.2f} points")
    print(f"{'networks':>9}{'kind':>10}{'RMSE, points':>14}{'Kendall tau':>13}{'seconds to fit':>16}")
    for size in sizes:
        for kind in KINDS:
            began = perf_counter()
            predictor = fit(space, kind, codes[:size], seen[:size], generator(0, "predictor"))
            seconds = perf_counter() - began
            quality = quality_of(predictor(codes[judged]), true[judged])
            print(f"{size:>9}{kind:>10}{100 * quality.rmse:>14.3f}{quality.tau:>13.3f}{seconds:>16.1f}")


def _made_up(space: SearchSpace, codes: Codes) -> Floats:
    """Top-1 `[n]` of codes `[n, choices]`: concave in MACs, and what pairs of choices add, each pair its own table."""
    rng, read = generator(0, "made-up accuracy"), space.read(codes)
    found = np.log(Costs(space, [macs])(codes)[:, 0])
    least, most = (np.log(space.plan(arch).macs) for arch in (space.smallest(), space.largest()))
    places = np.arange(len(space.choices))
    added = np.zeros(len(codes))
    for place, other in zip(places, rng.permutation(places), strict=True):
        table = rng.random([len(space.choices[place].values), len(space.choices[other].values)])
        added += np.where(read[:, place] & read[:, other], table[codes[:, place], codes[:, other]], 0.5)
    result: Floats = 0.68 + RANGE * (found - least) / (most - least) + RUGGED * (added / len(places) - 0.5)
    return result


if __name__ == "__main__":
    main()
