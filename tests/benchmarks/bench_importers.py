"""All networks of other libraries that can be started from: what they compute and cost, against the library's own.

For each name the largest difference of logits (random weights, random normalisations), relative to the largest logit;
MACs and parameters are asserted to be those that PyTorch counts. Larger models are compared in costs alone. What is
refused is listed with its reason. Then logits and gradients of random networks that are cut from some originals are
compared bit for bit, inside the supernet and extracted.

python tests/benchmarks/bench_importers.py [--side 64] [--archs 50] [--largest 150] [NAME ...]
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.importers import IMPORTERS
from nasdeploy.supernet.supernet import Supernet
from tests.importers.originals import assert_bit_equal, counted, difference, grown, shapes_alone, with_cuts
from tests.importers.test_cut_originals import ORIGINALS
from tests.nn.reference import randomise


def main() -> None:
    """Print the tables."""
    arguments = _arguments()
    refused, differences = [], []
    for library, name in _named(arguments):
        try:
            found, costs = _compare(library, name, arguments)
        except UserError as error:
            refused.append(str(error))
            continue
        if found is not None:
            differences.append(found)
        said = "costs alone" if found is None else f"{found:.1e}"
        print(
            f"{library}:{name:36} {costs[0] / 2e6:9.1f} M MACs {costs[1] / 1e6:7.1f} M parameters  {said}", flush=True
        )
    print(*refused, sep="\n")
    print(f"{len(differences)} compared, the largest difference {max(differences, default=0.0):.1e}")
    print(f"{len(refused)} refused")
    for original in ORIGINALS if arguments.archs else ():
        _cut(original, arguments)


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names as in --from, e.g. timm:resnet18; all of them by default")
    parser.add_argument("--side", type=int, default=64, help="of the images in pixels")
    parser.add_argument("--archs", type=int, default=50, help="random networks of each original")
    parser.add_argument("--largest", type=float, default=150, help="million parameters up to which logits are compared")
    return parser.parse_args()


def _named(arguments: Namespace) -> Iterator[tuple[str, str]]:
    everything = [f"{library}:{name}" for library, importer in IMPORTERS.items() for name in importer.names()]
    for each in arguments.names or everything:
        library, _, name = each.partition(":")
        yield library, name


def _compare(library: str, name: str, arguments: Namespace) -> tuple[float | None, tuple[int, int]]:
    """Return the difference, and twice the MACs and the parameters of the library's own model."""
    importer = IMPORTERS[library]
    with shapes_alone():
        shapes = importer.model(name)
    space = grown(importer.read(shapes, name), arguments.side)
    plan, costs = space.plan(space.largest()), counted(shapes, arguments.side)
    assert (2 * plan.macs, plan.params) == costs, name
    if costs[1] > 1e6 * arguments.largest:
        return None, costs
    return difference(importer, importer.model(name), name, arguments.side), costs


def _cut(original: str, arguments: Namespace) -> None:
    library, _, name = original.partition(":")
    torch.manual_seed(0)
    found = IMPORTERS[library].read(IMPORTERS[library].model(name), name)
    space = with_cuts(found, [arguments.side * 3 // 4, arguments.side])
    supernet = Supernet(space)
    randomise(supernet)
    rng, began = np.random.default_rng(0), perf_counter()
    assert_bit_equal(supernet, (space.sample(rng) for _ in range(arguments.archs)), arguments.side)
    print(f"{original}: {arguments.archs} random networks bit-equal, {perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
